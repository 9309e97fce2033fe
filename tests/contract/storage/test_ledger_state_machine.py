"""The five invariants of ``vectoll.domain.ledger`` under every order of hold, charge, release, retry and crash.

A model that fits on a page says what must happen; each adapter has to agree after every step.
"""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.ledger import ALICE, BOB, FixedClock, make_credit, make_debit, make_hold
from tests.postgres import POOL, emptied, execute

from vectoll.adapters.storage.holds import Holds
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.postgres import PostgresStore, open_postgres
from vectoll.adapters.storage.sqlite import SqliteStore, history, open_sqlite, verification, work
from vectoll.domain.allowances import Day, StakeSnapshot, day_of
from vectoll.domain.errors import IdempotencyConflict, InsufficientBalance, SpendLimitReached
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, RequestId, TransferId
from vectoll.domain.ledger import Hold, Transfer, TransferCode, system_account
from vectoll.domain.money import Amount, Price
from vectoll.ports.ledger import UsageQuery

UNIT = Price(1)
ACCOUNTS = st.sampled_from([ALICE, BOB])
AMOUNTS = st.integers(0, 20)
LIMITS = {
    None: None,
    "key_free": None,
    "key_day": SpendLimit(Amount(25), LimitPeriod.EPOCH),
    "key_ever": SpendLimit(Amount(40), LimitPeriod.LIFETIME),
}
KEYS = st.sampled_from(list(LIMITS))
IDS = st.sampled_from([None, None, "idem_1", "idem_2", "idem_3"])
FINGERPRINTS = st.sampled_from([b"x", b"x", b"y"])


@dataclass
class Model:
    """What a ledger is, said plainly."""

    transfers: dict[TransferId, Transfer] = field(default_factory=dict)
    holds: dict[tuple[TransferId, RequestId], Hold] = field(default_factory=dict)
    days: dict[tuple[TransferId, RequestId], Day] = field(default_factory=dict)
    per_day: dict[AccountId, int] = field(default_factory=dict)
    staked: dict[tuple[AccountId, Day], int] = field(default_factory=dict)
    granted_on: dict[tuple[AccountId, Day], int] = field(default_factory=dict)

    def balance(self, account: AccountId) -> int:
        received = sum(t.amount for t in self.transfers.values() if t.credit == account)
        return received - sum(t.amount for t in self.transfers.values() if t.debit == account)

    def held(self, account: AccountId) -> int:
        return sum(h.quote.amount for h in self.holds.values() if h.principal.account == account)

    def spent(self, hold: Hold, clock: FixedClock) -> int:
        limit = hold.principal.limit
        assert limit is not None
        start = limit.period.start(clock.now())
        mine = (t for t in self.transfers.values() if t.key == hold.principal.key)
        return sum(t.amount for t in mine if limit.period.start(t.created_at) == start)

    def allowance_spent(self, account: AccountId, day: Day) -> int:
        of_day = (t for t in self.transfers.values() if t.code is TransferCode.ALLOWANCE and t.note == day)
        return sum(t.amount for t in of_day if t.credit == account)

    def granted(self, account: AccountId, day: Day) -> int:
        return self.granted_on.get((account, day), self.per_day.get(account, 0))

    def left(self, account: AccountId, day: Day) -> int:
        return self.granted(account, day) - self.allowance_spent(account, day)

    def settle_grant(self, account: AccountId, day: Day) -> None:
        """A day's grant stands from its first change on, but for new grants and snapshots of that day."""
        due = self.per_day.get(account, 0) + self.staked.get((account, day), 0)
        self.granted_on[account, day] = max(due, self.allowance_spent(account, day))

    def add_charge(self, charge: Transfer, part: int, day: Day) -> None:
        account = charge.debit
        self.granted_on.setdefault((account, day), self.granted(account, day))
        if part:
            allowance = Transfer(
                id=TransferId(f"{charge.id}.allowance"),
                debit=system_account("allowance", charge.created_at),
                credit=account,
                amount=Amount(part),
                code=TransferCode.ALLOWANCE,
                created_at=charge.created_at,
                request_id=charge.request_id,
                note=day,
            )
            self.transfers[allowance.id] = allowance
        self.transfers[charge.id] = charge

    def refusal(
        self, hold: Hold, amount: int, clock: FixedClock, *, others: bool, day: Day | None = None
    ) -> type[Exception] | None:
        """Why ``amount`` cannot be taken, beside the other active holds or, for a charge, regardless of them."""
        account = hold.principal.account
        held = self.held(account) if others else 0
        left = self.left(account, day or day_of(clock.now()))
        if self.balance(account) + left - held < amount:
            return InsufficientBalance
        limit, key = hold.principal.limit, hold.principal.key
        if limit is not None:
            pending = (
                sum(h.quote.amount for h in self.holds.values() if h.principal.key == key) if others else 0
            )
            if self.spent(hold, clock) + pending + amount > limit.amount:
                return SpendLimitReached
        return None

    def earlier(self, hold: Hold) -> Transfer | type[Exception] | None:
        """The charge that exists under the hold's id, or the conflict with it."""
        existing = self.transfers.get(hold.id)
        if existing is None:
            return None
        same = existing.fingerprint == hold.fingerprint and existing.debit == hold.principal.account
        return existing if same else IdempotencyConflict


class LedgerMachine(RuleBasedStateMachine):
    """Drives one adapter and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FixedClock()
        self.model = Model()
        self.seen: list[Hold] = []
        self.snapshots: set[Day] = set()

    async def open(self) -> Any:
        raise NotImplementedError

    async def crash(self) -> None:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.store = self.runner.run(self.open())

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """The result, or the type of the domain error."""

        async def catch() -> Any:
            try:
                return await awaitable
            except (InsufficientBalance, SpendLimitReached, IdempotencyConflict) as error:
                return type(error)

        return self.runner.run(catch())

    @property
    def today(self) -> Day:
        return day_of(self.clock.now())

    @rule(account=ACCOUNTS, per_day=st.integers(0, 15))
    def grant(self, account: AccountId, per_day: int) -> None:
        self.run(self.store.allowances.grant(account, Amount(per_day)))
        self.model.per_day[account] = per_day
        self.model.settle_grant(account, self.today)

    @rule(stakes=st.dictionaries(ACCOUNTS, st.integers(1, 15)))
    def snapshot(self, stakes: dict[AccountId, int]) -> None:
        for account in stakes:
            self.credit(account, 0)
        recorded = self.run(self.store.allowances.record(StakeSnapshot(self.today, 1), stakes))
        assert recorded is (self.today not in self.snapshots)
        if recorded:
            self.snapshots.add(self.today)
            for account, amount in stakes.items():
                self.model.staked[account, self.today] = amount
                self.model.settle_grant(account, self.today)

    @rule(account=ACCOUNTS, amount=st.integers(0, 50))
    def credit(self, account: AccountId, amount: int) -> None:
        transfer = make_credit(amount, account, at=self.clock.now())
        assert self.run(self.store.ledger.post(transfer)) == transfer
        self.model.transfers[transfer.id] = transfer

    @rule(data=st.data())
    def retry_post(self, data: st.DataObject) -> None:
        posted = [
            t
            for t in self.model.transfers.values()
            if t.code not in (TransferCode.CHARGE, TransferCode.ALLOWANCE)
        ]
        if posted:
            transfer = data.draw(st.sampled_from(posted))
            assert self.run(self.store.ledger.post(transfer)) == transfer
            other = replace(transfer, amount=Amount(transfer.amount + 1))
            assert self.run(self.store.ledger.post(other)) is IdempotencyConflict

    @rule(account=ACCOUNTS, amount=AMOUNTS)
    def take_back(self, account: AccountId, amount: int) -> None:
        transfer = make_debit(amount, account, at=self.clock.now())
        outcome = self.run(self.store.ledger.post(transfer))
        if self.model.balance(account) < amount:
            assert outcome is InsufficientBalance
        else:
            assert outcome == transfer
            self.model.transfers[transfer.id] = transfer

    @rule(tokens=AMOUNTS, account=ACCOUNTS, key=KEYS, charge_id=IDS, fingerprint=FINGERPRINTS)
    def hold(
        self, tokens: int, account: AccountId, key: str | None, charge_id: str | None, fingerprint: bytes
    ) -> None:
        hold = make_hold(
            tokens,
            account,
            charge_id=charge_id,
            key=key,
            limit=LIMITS[key],
            fingerprint=fingerprint if charge_id else None,
            price=UNIT,
        )
        self.take(hold)

    @rule(data=st.data())
    def retry_hold(self, data: st.DataObject) -> None:
        # an id without a fingerprint was made for its hold: nobody holds under it again once it is charged
        again = [h for h in self.seen if h.fingerprint is not None or self.model.earlier(h) is None]
        if again:
            self.take(data.draw(st.sampled_from(again)))

    def take(self, hold: Hold) -> None:
        outcome = self.run(self.store.ledger.hold(hold))
        expected = self.model.earlier(hold)
        same_id = [h for h in self.model.holds.values() if h.id == hold.id]
        if expected is None and any(h.fingerprint != hold.fingerprint for h in same_id):
            expected = IdempotencyConflict
        if expected is None and (hold.id, hold.request_id) not in self.model.holds:
            expected = self.model.refusal(hold, hold.quote.amount, self.clock, others=True)
        assert outcome == expected
        if outcome is None:
            self.model.holds[hold.id, hold.request_id] = hold
            self.model.days.setdefault((hold.id, hold.request_id), self.today)
            self.seen.append(hold)

    @rule(data=st.data())
    def charge(self, data: st.DataObject) -> None:
        if self.seen:
            hold = data.draw(st.sampled_from(self.seen))
            tokens = data.draw(st.integers(0, hold.quote.tokens))
            outcome = self.run(self.store.ledger.charge(hold, tokens, 1))
            self.expect_charge(hold, tokens, outcome)

    def expect_charge(self, hold: Hold, tokens: int, outcome: Any) -> None:
        day = self.forget(hold)
        refusal = self.model.refusal(hold, tokens, self.clock, others=False, day=day)
        expected = self.model.earlier(hold) or refusal
        if expected is not None:
            assert outcome == expected
            return
        assert (outcome.id, outcome.debit, outcome.amount) == (hold.id, hold.principal.account, tokens)
        assert outcome.code is TransferCode.CHARGE
        part = min(tokens, self.model.left(hold.principal.account, day))
        self.model.add_charge(outcome, part, day)

    def forget(self, hold: Hold) -> Day:
        """The day whose allowance pays."""
        self.model.holds.pop((hold.id, hold.request_id), None)
        return self.model.days.pop((hold.id, hold.request_id), self.today)

    @rule(data=st.data())
    def charge_together(self, data: st.DataObject) -> None:
        """In one group: the outcomes are those of one after the other."""
        if not self.seen:
            return
        holds = data.draw(st.lists(st.sampled_from(self.seen), min_size=1, max_size=6, unique_by=id))
        outcomes = self.runner.run(
            self.gather([self.store.ledger.charge(h, h.quote.tokens, 1) for h in holds])
        )
        for hold, outcome in zip(holds, outcomes, strict=True):
            result = type(outcome) if isinstance(outcome, Exception) else outcome
            self.expect_charge(hold, hold.quote.tokens, result)

    async def gather(self, awaitables: list[Awaitable[Any]]) -> list[Any]:
        return await asyncio.gather(*awaitables, return_exceptions=True)

    @rule(data=st.data(), steps=st.integers(1, 3))
    def cancel_charge(self, data: st.DataObject, steps: int) -> None:
        """It is charged all the same."""
        if self.seen:
            hold = data.draw(st.sampled_from(self.seen))
            self.runner.run(self.cancel_after(self.store.ledger.charge(hold, hold.quote.tokens, 1), steps))
            outcome = self.run(self.store.ledger.charge(hold, 0, 1))
            self.expect_charge_of_either(hold, outcome)

    def expect_charge_of_either(self, hold: Hold, outcome: Any) -> None:
        """The cancelled charge, if it could be applied; else the charge of nothing that followed it."""
        day = self.model.days.get((hold.id, hold.request_id), self.today)
        full = self.model.earlier(hold) or self.model.refusal(
            hold, hold.quote.amount, self.clock, others=False, day=day
        )
        self.expect_charge(hold, hold.quote.tokens if full is None else 0, outcome)

    async def cancel_after(self, awaitable: Awaitable[Any], steps: int) -> None:
        task = asyncio.ensure_future(awaitable)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.seen:
            hold = data.draw(st.sampled_from(self.seen))
            self.run(self.store.ledger.release(hold))
            self.forget(hold)

    @rule(hours=st.integers(1, 30))
    def wait(self, hours: int) -> None:
        self.clock.advance(hours=hours)

    @rule()
    def crash_and_restart(self) -> None:
        self.runner.run(self.crash())
        self.model.holds.clear()
        self.model.days.clear()

    @rule(data=st.data())
    def crash_while_charging(self, data: st.DataObject) -> None:
        """What was acknowledged is there; of the rest, each is there or not."""
        active = list(self.model.holds.values())
        if active:
            holds = data.draw(st.lists(st.sampled_from(active), min_size=1, max_size=4, unique_by=id))
            charges = self.runner.run(self.crash_during(holds, data.draw(st.integers(0, 3))))
            self.model.holds.clear()
            for hold, charge in zip(holds, charges, strict=True):
                if charge is not None and charge.id not in self.model.transfers:
                    day = self.model.days[hold.id, hold.request_id]
                    part = min(charge.amount, self.model.left(charge.debit, day))
                    self.model.add_charge(charge, part, day)
            self.model.days.clear()

    async def crash_during(self, holds: list[Hold], steps: int) -> list[Transfer | None]:
        tasks = [asyncio.ensure_future(self.store.ledger.charge(h, h.quote.tokens, 1)) for h in holds]
        for _ in range(steps):
            await asyncio.sleep(0)
        acknowledged = [t.result() for t in tasks if t.done() and not t.cancelled() and not t.exception()]
        await self.crash()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        charges = [await self.store.ledger.transfer(hold.id) for hold in holds]
        assert all(charge in charges for charge in acknowledged)
        return charges

    @invariant()
    def balances_and_holds_are_the_models(self) -> None:
        for account in (ALICE, BOB):
            balance = self.run(self.store.ledger.balance(account))
            assert (balance.balance, balance.held) == (self.model.balance(account), self.model.held(account))
            assert balance.allowance == self.model.left(account, self.today)
            assert balance.granted == self.model.granted(account, self.today)
            assert balance.balance >= 0

    @invariant()
    def transfers_are_the_models(self) -> None:
        stored = [
            t for account in (ALICE, BOB) for t in self.run(self.store.ledger.usage(UsageQuery(account)))
        ]
        assert {t.id: t for t in stored} == self.model.transfers

    @invariant()
    def the_books_are_right(self) -> None:
        verification = self.run(self.store.ledger.verify())
        assert verification.disagreements == ()
        assert verification.transfers == len(self.model.transfers)


class MemoryMachine(LedgerMachine):
    """Memory loses nothing but holds when it "crashes"."""

    async def open(self) -> MemoryStore:
        return MemoryStore(self.clock)

    async def crash(self) -> None:
        await asyncio.sleep(0)
        self.store.ledger._holds = Holds()


class SqliteMachine(LedgerMachine):
    """A crash drops the store as it stands and opens the file again. Pages of histories are short, so that many end."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.short = pytest.MonkeyPatch()
        for module in (work, history, verification):
            self.short.setattr(module, "PAGE", 3)

    async def open(self) -> SqliteStore:
        return await open_sqlite(Path(self.directory.name), self.clock)

    async def crash(self) -> None:
        self.store._writer._inbox.put(None)  # what was not handed over is lost
        await asyncio.to_thread(self.store._writer._thread.join)
        self.store._reader.close()
        self.store = await self.open()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.directory.cleanup()
            self.short.undo()


class PostgresMachine(LedgerMachine):
    """A crash cuts the connections, a minute passes in which nobody renews the holds, and another gateway comes."""

    url: str

    async def open(self) -> PostgresStore:
        return await open_postgres(await emptied(self.url), self.clock, POOL)

    async def crash(self) -> None:
        self.store.database.is_closed = True
        self.store.database._pool.terminate()
        await self.store.close()
        while await execute(self.url, CONNECTED):  # noqa: ASYNC110 - a server that notices has no event
            await asyncio.sleep(0.001)
        await execute(self.url, "UPDATE vectoll.holds SET expires_at = now() - interval '1 second'")
        self.store = await open_postgres(self.url, self.clock, POOL)


CONNECTED = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'vectoll' AND state <> 'idle'
"""


@pytest.mark.parametrize(
    ("machine", "examples"), [(MemoryMachine, 100), (SqliteMachine, 40), (PostgresMachine, 25)]
)
def test_ledger_agrees_with_the_model(
    machine: type[LedgerMachine], examples: int, request: pytest.FixtureRequest
) -> None:
    if issubclass(machine, PostgresMachine):
        machine.url = request.getfixturevalue("database_url")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
