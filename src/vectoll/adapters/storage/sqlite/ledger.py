"""The ledger in SQLite: holds in memory, charges group-committed."""

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.holds import Holds
from vectoll.adapters.storage.sqlite import history
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.rows import read_transfer
from vectoll.adapters.storage.sqlite.verification import verify
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import from_micros, to_micros
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.domain.allowances import Day, day_of
from vectoll.domain.errors import PaymentRequired
from vectoll.domain.identity import LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Balance, Hold, Transfer, Verification
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.clock import Clock
from vectoll.ports.ledger import Funds, KeyUsage, PaidCharge, UsageQuery

FRESH_S = 0.1
MAX_REMEMBERED = 10_000
_Facts = tuple[AccountId, Day, KeyId | None, LimitPeriod | None, int | None]
"""What the funds for a hold depend on: the account, the day, and the key with its period."""


class SqliteLedger:
    """See ``vectoll.ports.ledger.Ledger`` for what each method promises.

    A hold is granted on the committed balance less everything held. A charge's amount stays held until its commit
    has been delivered, so while a commit is under way it may be counted twice and never missed: granting is always
    safe, and before a refusal the ledger looks again when the writer is quiet.
    """

    def __init__(
        self, writer: GroupWriter, reader: Reader, clock: Clock, undecided: UndecidedCharges
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._undecided = undecided
        self._holds = Holds()
        self._funds = _RecentFunds(writer)

    async def hold(self, hold: Hold) -> Transfer | None:
        """Set the quote aside, or return the earlier charge. Suspends only on the way to a refusal."""
        rules.check_holder(hold.principal.account)
        try:
            return self._try_hold(hold)
        except PaymentRequired:
            if self._writer.is_quiet:
                raise
        try:
            return await self._writer.when_quiet(lambda: self._try_hold(hold))
        except asyncio.CancelledError:
            self._holds.release(hold)
            raise

    async def charge(self, hold: Hold, tokens: int, duration_ms: int) -> Transfer:
        """Charge what was used, durably; the hold is gone afterwards.

        Without an active hold (it was released, or the process has restarted) the charge is applied if the account's
        balance and the key's limit allow it, as a transfer that is posted would be.
        """
        day = self._holds.claim(hold)
        if day is None:
            rules.charged_amount(hold, tokens)
            return await self._writer.submit(
                lambda work: work.charge(hold, tokens, duration_ms, None), charges=hold
            )
        try:
            amount = rules.charged_amount(hold, tokens)
            charged = self._writer.submit(
                lambda work: work.charge(hold, tokens, duration_ms, day),
                settle=lambda: self._settle(hold, amount),
                moves_funds=False,
                charges=hold,
            )
        except BaseException:
            self._holds.settle(hold)
            raise
        return await charged

    def _settle(self, hold: Hold, amount: Amount) -> None:
        """A charge is over: what it held is free, what it took is gone."""
        self._holds.settle(hold)
        self._funds.take(hold.principal.account, amount)

    async def release(self, hold: Hold) -> None:
        """Give the hold back."""
        self._holds.release(hold)

    async def post(self, transfer: Transfer) -> Transfer:
        """Apply a transfer that is not a charge, once."""
        rules.check_post(transfer)
        return await self._writer.submit(lambda work: work.post(transfer))

    async def balance(self, account: AccountId) -> Balance:
        """What an account has and what is held of it, at a moment when the two agree."""
        return await self._writer.when_quiet(lambda: self._balance(account))

    async def balances(self) -> Mapping[AccountId, Balance]:
        """Every customer's, at a moment when all agree."""
        return await self._writer.when_quiet(self._balances)

    async def transfer(self, transfer_id: TransferId) -> Transfer | None:
        """One transfer by id."""
        return self._reader.read(lambda db: read_transfer(db, transfer_id))

    async def usage(self, query: UsageQuery) -> Sequence[Transfer]:
        """A page of an account's transfers."""
        rules.check_query(query)
        return await self._reader.read_in_turn(query.account, lambda db: history.usage(db, query))

    async def charges(self, query: UsageQuery, funds: Funds | None = None) -> Sequence[PaidCharge]:
        """A page of an account's charges."""
        rules.check_query(query)
        return await self._reader.read_in_turn(query.account, lambda db: history.charges(db, query, funds))

    async def key_usage(
        self, account: AccountId, limits: Mapping[KeyId, SpendLimit | None], now: datetime
    ) -> Mapping[KeyId, KeyUsage]:
        """What keys have spent lately."""
        return await self._reader.read_in_turn(
            account, lambda db: {key: _key_usage(db, key, limit, now) for key, limit in limits.items()}
        )

    async def verify(self) -> Verification:
        """Recompute the books, from one snapshot."""
        return await self._reader.read_in_thread(verify)

    async def undo_undelivered(self) -> None:
        """Find out what became of charges whose outcome was unknown when the process before ended.

        One that was made is refunded: what an allowance paid to its day, the rest to the account. A charge of nothing
        takes the place of one that was not.
        """
        for group in self._undecided.groups():
            for hold in group:
                await self._writer.submit(partial(Work.undo, hold=hold))

    def _balance(self, account: AccountId) -> Balance:
        facts = (account, day_of(self._clock.now()))
        row = self._reader.read(lambda db: db.execute(sql("balance_and_allowance"), facts).fetchone())
        return self._balance_of(account, *row)

    def _balances(self) -> Mapping[AccountId, Balance]:
        today = day_of(self._clock.now())
        rows = self._reader.read(lambda db: db.execute(sql("balances_and_allowances"), (today,)).fetchall())
        return {account: self._balance_of(account, *facts) for account, *facts in rows}

    def _balance_of(
        self, account: AccountId, balance: int | None, granted: int | None, spent: int | None
    ) -> Balance:
        left = (granted or ZERO) - (spent or ZERO)
        return Balance(
            Amount(balance or ZERO), self._holds.held(account), Amount(left), Amount(granted or ZERO)
        )

    def _try_hold(self, hold: Hold) -> Transfer | None:
        """In one step: on funds read since the last delivery; else, and before any refusal, on what the file says."""
        now = self._clock.now()
        period: tuple[KeyId, LimitPeriod, int] | tuple[None, None, None] = (None, None, None)
        if limited := rules.limited_key(hold):
            key, limit = limited
            period = (key, *rules.period_of(limit, now))
        today = day_of(now)
        # without one the id was made for this hold, and nothing can have been charged to it
        if hold.fingerprint is not None:
            existing = self._reader.read(lambda db: read_transfer(db, hold.id))
            if existing is not None:
                return rules.earlier_charge(existing, hold)
        facts = (hold.principal.account, today, *period)
        remembered = self._funds.get(facts)
        if remembered is not None:
            try:
                self._holds.take(hold, *remembered, today)
            except PaymentRequired:
                pass  # perhaps there is more by now
            else:
                return None
        balance, allowance, spent = self._reader.read(
            lambda db: db.execute(sql("hold_facts"), facts).fetchone()
        )
        funds = (balance or ZERO) + (allowance or ZERO), spent or ZERO
        self._funds.put(facts, funds)
        self._holds.take(hold, *funds, today)
        return None


class _RecentFunds:
    """Accounts' funds as read lately, less what has been charged since: never more than there is.

    Valid until anything other than a charge of ours is delivered, as what is being committed is still held. What other
    processes do goes unseen for ``FRESH_S`` at most; if they took credit away, the file itself refuses the charge.
    """

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer
        self._read: dict[AccountId, dict[_Facts, tuple[int, int]]] = {}
        self._changes = 0
        self._fresh_until = 0.0

    def get(self, facts: _Facts) -> tuple[int, int] | None:
        """Funds and what the key has spent, None for what has to be read."""
        if self._changes != self._writer.changes or time.monotonic() >= self._fresh_until:
            self._read.clear()
            return None
        return self._read.get(facts[0], {}).get(facts)

    def put(self, facts: _Facts, funds: tuple[int, int]) -> None:
        """Remember funds that were read just now."""
        if not self._read:
            self._changes = self._writer.changes
            self._fresh_until = time.monotonic() + FRESH_S
        if len(self._read) < MAX_REMEMBERED:
            self._read.setdefault(facts[0], {})[facts] = funds

    def take(self, account: AccountId, amount: int) -> None:
        """A charge was delivered, whichever key made it."""
        known = self._read.get(account, {})
        for facts, (funds, spent) in known.items():
            known[facts] = funds - amount, spent + amount


def _key_usage(db: sqlite3.Connection, key: KeyId, limit: SpendLimit | None, now: datetime) -> KeyUsage:
    days = [to_micros(day) for day in rules.trailing_days(now)]
    trailing = db.execute(sql("spent_since"), (key, LimitPeriod.EPOCH.value, min(days), max(days))).fetchone()
    current = db.execute(sql("spent"), (key, *rules.period_of(limit, now))).fetchone()
    used = db.execute(sql("last_used_at"), (key,)).fetchone()
    return KeyUsage(
        trailing_seven_days=Amount(trailing[0]),
        current_period=Amount(current[0]) if current else ZERO,
        last_used_at=from_micros(used[0]) if used else None,
    )
