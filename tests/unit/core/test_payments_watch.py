"""The watch over open payments outlives whatever a round meets."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.ledger import FixedClock
from tests.wallets import OPTION, FakeRail, Wallet

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.memory_wallets import MemoryPayments
from vectoll.core.topup import TopUps
from vectoll.core.topup_settle import Waiting
from vectoll.domain.errors import RateLimited, Unavailable
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import usd
from vectoll.domain.payments import (
    Arrived,
    Intent,
    IntentState,
    Missing,
    Never,
    Payment,
    PaymentId,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
    Sighting,
    Submission,
)
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcSilent, RpcUnavailable


class Flaky(FakeRail):
    """Raises or answers what it is told, once each; then everything arrives."""

    def __init__(self, *script: Exception | Sighting) -> None:
        super().__init__()
        self.script = list(script)
        self.resent = 0

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        step = self.script.pop(0) if self.script else await super().look(payment, intent)
        if isinstance(step, Exception):
            raise step
        return step

    async def resend(self, intent: Intent) -> bool:
        self.resent += 1
        return True


def top_ups(rail: FakeRail, store: MemoryStore, clock: FixedClock) -> TopUps:
    return TopUps(
        [rail], store.payments, store.ledger, MemoryRateLimiter(), clock, Waiting(timeout_s=0, poll_s=0)
    )


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime.now(UTC))


def header(wallet: Wallet) -> str:
    return wallet.payment()["payment-signature"]


async def test_a_round_that_fails_is_logged_and_the_next_one_credits(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    rail, real_open = Flaky(Missing()), store.payments.open
    failures = [ValueError("a defect")]

    async def fail_once() -> Sequence[Intent]:
        if failures:
            raise failures.pop()
        return await real_open()

    store.payments.open = fail_once  # type: ignore[method-assign]
    service = top_ups(rail, store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(wallet))
    watch = asyncio.create_task(service.watch(0))
    async with asyncio.timeout(5):
        while (await store.payments.list())[0].state is not IntentState.CREDITED:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0)
    watch.cancel()
    assert "reconcile_failed" in caplog.text
    assert (await store.ledger.balance(AccountId(wallet.id))).balance == usd("5")


async def test_a_silent_chain_changes_nothing_and_a_missing_payment_is_sent_again(clock: FixedClock) -> None:
    store = MemoryStore(clock)
    rail = Flaky(Missing(), RpcUnavailable(), Missing())
    service = top_ups(rail, store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    assert await service.reconcile() == []
    assert rail.resent == 0, "nobody knows whether it is missing"
    assert await service.reconcile() == []
    assert rail.resent == 1
    assert [i.state for i in await service.reconcile()] == [IntentState.CREDITED]


async def test_another_asset_since_is_told_and_does_not_end_the_round(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Flaky(Missing()), store, clock).top_up(header(Wallet()))
    elsewhere = FakeRail(replace(OPTION, asset="0x" + "77" * 20))
    assert await top_ups(elsewhere, store, clock).reconcile() == []
    assert "payment_not_watched" in caplog.text


async def test_a_payment_to_who_was_asked_for_before_is_watched_and_not_sent_anew(clock: FixedClock) -> None:
    store = MemoryStore(clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Flaky(Missing()), store, clock).top_up(header(Wallet()))

    async def is_replaced(intent: Intent) -> bool:
        return False

    rail = Flaky(Missing())
    rail.option = replace(OPTION, pay_to="0x" + "77" * 20)
    rail.resend = is_replaced  # type: ignore[method-assign]
    later = top_ups(rail, store, clock)
    assert await later.reconcile() == []
    assert rail.settled == []
    assert [i.state for i in await later.reconcile()] == [IntentState.CREDITED]


async def test_a_payment_that_was_put_off_while_the_clock_was_ahead_is_looked_at_when_it_is_right(
    clock: FixedClock,
) -> None:
    store, rail = MemoryStore(clock), Flaky(Missing(), Missing())
    service = top_ups(rail, store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    clock.advance(days=1)
    assert await service.reconcile() == []
    clock.advance(days=-1)
    assert [i.state for i in await service.reconcile()] == [IntentState.CREDITED]


@pytest.mark.parametrize("between", [Missing(), Arrived("0x01", 5_000_000, 0, 1, is_final=False)])
async def test_a_credit_is_taken_back_only_when_its_payment_is_absent_five_rounds_in_a_row(
    clock: FixedClock, between: Sighting
) -> None:
    store, wallet, gone = MemoryStore(clock), Wallet(), Never("expired", by_absence=True)
    rail = Flaky(Arrived("0x01", 5_000_000, 0, 1, is_final=False))
    service = top_ups(rail, store, clock)
    await service.top_up(header(wallet))
    rail.script = [*[gone] * 4, between, *[gone] * 2, RpcUnavailable(), *[gone] * 3]
    for _ in range(10):
        assert await service.reconcile() == []
    assert [i.state for i in await service.reconcile()] == [IntentState.REVERSED]
    assert (await store.ledger.balance(AccountId(wallet.id))).balance == 0


@pytest.mark.parametrize("spent", ["0", "3"])
async def test_what_was_taken_back_is_given_back_once_when_its_payment_shows_for_good_after_all(
    clock: FixedClock, spent: str
) -> None:
    store, wallet, gone = MemoryStore(clock), Wallet(), Never("expired", by_absence=True)
    here = Arrived("0x01", 5_000_000, 0, 1, is_final=False)
    rail = Flaky(here)
    service = top_ups(rail, store, clock)
    await service.top_up(header(wallet))
    house, account = system_account("revenue", clock.now()), AccountId(wallet.id)
    charge = Transfer(TransferId("s"), account, house, usd(spent), TransferCode.REFUND, clock.now())
    await store.ledger.post(charge)
    rail.script = [*[gone] * 5, gone, Missing(), RpcUnavailable(), here]
    for _ in range(5):
        changed = await service.reconcile()
    assert [i.state for i in changed] == [IntentState.REVERSED]
    rail.resent = 0
    for _ in range(4):
        assert await service.reconcile() == []
    assert [(i.state, i.is_final) for i in await service.reconcile()] == [(IntentState.CREDITED, True)]
    assert await service.reconcile() == []
    assert (await store.ledger.balance(account)).balance == usd("5") - usd(spent)
    assert rail.resent == 0
    assert (await store.ledger.verify()).is_clean


async def test_what_was_taken_back_long_ago_is_looked_for_no_more(clock: FixedClock) -> None:
    store, gone = MemoryStore(clock), Never("expired", by_absence=True)
    rail = Flaky(Arrived("0x01", 5_000_000, 0, 1, is_final=False), *[gone] * 5)
    service = top_ups(rail, store, clock)
    await service.top_up(header(Wallet()))
    for _ in range(5):
        await service.reconcile()
    clock.advance(seconds=31 * 86_400)
    assert await service.reconcile() == []
    assert (await store.payments.list())[0].state is IntentState.REVERSED


async def test_a_payment_has_failed_when_it_is_absent_in_two_rounds_and_not_while_its_client_waits(
    clock: FixedClock,
) -> None:
    gone = Never("expired", by_absence=True)
    service = top_ups(Flaky(gone, gone, gone), MemoryStore(clock), clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    assert await service.reconcile() == []
    assert [i.state for i in await service.reconcile()] == [IntentState.FAILED]


class Crowded(FakeRail):
    """Nothing arrives; each look takes a moment, and is refused an answer from the ``silent_from``-th on."""

    def __init__(self, silent_from: int = 10_000) -> None:
        super().__init__()
        self.looked: list[str] = []
        self.at_once = self.most = 0
        self.silent_from = silent_from

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        self.looked.append(intent.id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if len(self.looked) >= self.silent_from:
            raise RpcSilent
        return Missing()


async def crowd(store: MemoryStore, clock: FixedClock, count: int) -> None:
    service = top_ups(Flaky(*[Missing()] * count), store, clock)
    for _ in range(count):
        with pytest.raises(PaymentOutcomeUnknown):
            await service.top_up(header(Wallet()))


async def test_open_payments_are_looked_at_several_at_a_time(clock: FixedClock) -> None:
    store, rail = MemoryStore(clock), Crowded()
    await crowd(store, clock, 20)
    await top_ups(rail, store, clock).reconcile()
    assert len(set(rail.looked)) == len(rail.looked) == 20
    assert rail.most == 8


async def test_the_longer_a_payment_is_open_the_less_often_it_is_looked_at(clock: FixedClock) -> None:
    store, rail = MemoryStore(clock), Crowded()
    await crowd(store, clock, 1)
    service = top_ups(rail, store, clock)
    looks = []
    for minutes in (4, 60, 600, 6000):
        clock.advance(seconds=60 * minutes)
        before = len(rail.looked)
        for _ in range(240):
            clock.advance(seconds=15)
            await service.reconcile()
        looks.append(len(rail.looked) - before)
    assert 25 <= looks[0] <= 35, "in the first five minutes every round"
    assert 3 <= looks[1] <= 6
    assert all(1 <= few <= 2 for few in looks[2:])


async def test_a_payment_whose_outcome_is_unknown_for_an_hour_is_an_error_in_the_log(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock)
    await crowd(store, clock, 1)
    service = top_ups(Crowded(), store, clock)
    clock.advance(seconds=3599)
    await service.reconcile()
    assert "payment_outcome_unknown" not in caplog.text
    clock.advance(seconds=600)
    await service.reconcile()
    [record] = [r for r in caplog.records if r.message == "payment_outcome_unknown"]
    assert record.levelname == "ERROR"
    assert vars(record)["payment"] == (await store.payments.list())[0].id


async def test_a_silent_chain_ends_its_round_and_what_was_asked_waits_behind_the_others(
    clock: FixedClock,
) -> None:
    store, rail = MemoryStore(clock), Crowded(silent_from=1)
    await crowd(store, clock, 20)
    service = top_ups(rail, store, clock)
    await service.reconcile()
    assert len(rail.looked) == 8
    rail.silent_from = 10_000
    await service.reconcile()
    assert len(set(rail.looked)) == len(rail.looked) == 20
    clock.advance(seconds=61)
    await service.reconcile()
    assert len(rail.looked) == 40


async def test_one_silent_chain_does_not_keep_another_from_being_looked_at(clock: FixedClock) -> None:
    store, option = MemoryStore(clock), replace(OPTION, network="eip155:1")
    await crowd(store, clock, 2)
    other = FakeRail(option)
    for intent in await store.payments.list():
        payload = intent.payload.replace(b"eip155:8453", b"eip155:1")
        elsewhere = replace(intent, id=PaymentId(f"{intent.id}1"), network="eip155:1", payload=payload)
        await store.payments.insert(elsewhere)
    rails = [Crowded(silent_from=1), other]
    service = TopUps(
        rails, store.payments, store.ledger, MemoryRateLimiter(), clock, Waiting(timeout_s=0, poll_s=0)
    )
    assert [i.network for i in await service.reconcile()] == ["eip155:1"] * 2


class Mute(FakeRail):
    """Falls silent before anything was recorded."""

    async def settle(self, payment: Payment, record: Record) -> None:
        raise RpcUnavailable


async def test_a_verified_payment_that_was_left_behind_is_settled_later(clock: FixedClock) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    payment = header(wallet)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Mute(), store, clock).top_up(payment)
    assert (await store.payments.list())[0].state is IntentState.VERIFIED
    with pytest.raises(PaymentInProgress):
        await top_ups(FakeRail(), store, clock).top_up(payment)
    rail = Flaky(Missing())
    service = top_ups(rail, store, clock)
    assert await service.reconcile() == [], "its own process may still be at it"
    clock.advance(seconds=61)
    rail.script = [Missing()]
    assert [i.state for i in await service.reconcile()] == [IntentState.SUBMITTING]
    assert [i.state for i in await service.reconcile()] == [IntentState.CREDITED]
    assert len(rail.settled) == 1


async def test_a_received_payment_whose_process_died_may_be_sent_again(clock: FixedClock) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    payment = header(wallet)
    first = top_ups(FakeRail(), store, clock)
    intent = (await first.top_up(payment)).intent
    dead = replace(
        intent, state=IntentState.RECEIVED, tx=None, raw_tx=None, log_index=None, balance_after=None
    )
    other = MemoryStore(clock)
    await other.payments.insert(replace(dead, updated_at=clock.now()))
    service = top_ups(FakeRail(), other, clock)
    with pytest.raises(PaymentInProgress):
        await service.top_up(payment)
    clock.time += timedelta(seconds=61)
    assert (await service.top_up(payment)).is_new


class Sated(FakeRail):
    """Has had this payment before."""

    async def verify(self, payment: Payment) -> int:
        raise PaymentRefused("authorization_used", "")

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        return Never("failed_on_chain")


async def test_a_failed_payment_that_was_sent_once_keeps_what_it_was_sent_as_when_it_comes_again(
    clock: FixedClock,
) -> None:
    store, payment = MemoryStore(clock), header(Wallet())
    with pytest.raises(PaymentRefused):
        await top_ups(Flaky(Never("failed_on_chain")), store, clock).top_up(payment)
    sent = (await store.payments.list())[0]
    assert sent.tx is not None
    with pytest.raises(PaymentRefused):
        await top_ups(Sated(), store, clock).top_up(payment)
    again = (await store.payments.list())[0]
    assert (again.state, again.reason) == (IntentState.FAILED, "authorization_used")
    assert (again.tx, again.raw_tx, again.since_block) == (sent.tx, sent.raw_tx, sent.since_block)


class Busy(MemoryPayments):
    """Cannot be written when it is to credit."""

    async def credit(self, old: Intent, new: Intent, transfer: Transfer) -> Intent | None:
        raise Unavailable("The ledger cannot be written right now. Nothing was charged.")


async def test_a_ledger_that_fails_after_the_payment_was_sent_leaves_the_outcome_open(
    clock: FixedClock,
) -> None:
    """503 "nothing was charged" would have the client pay again."""
    store, wallet = MemoryStore(clock), Wallet()
    busy = Busy(store.ledger)
    service = TopUps(
        [FakeRail()], busy, store.ledger, MemoryRateLimiter(), clock, Waiting(timeout_s=0, poll_s=0)
    )
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(wallet))
    assert [i.state for i in await busy.open()] == [IntentState.SUBMITTING]


async def test_one_client_starts_at_most_thirty_top_ups_a_minute_from_however_many_wallets(
    clock: FixedClock,
) -> None:
    service = top_ups(FakeRail(), MemoryStore(clock), clock)
    for _ in range(30):
        await service.top_up(header(Wallet()), "address:192.0.2.1")
    with pytest.raises(RateLimited):
        await service.top_up(header(Wallet()), "address:192.0.2.1")
    await service.top_up(header(Wallet()), "address:192.0.2.2")


async def test_a_fourth_payment_waits_until_one_of_three_that_are_open_is_settled(clock: FixedClock) -> None:
    wallet, rail, store = Wallet(), Flaky(*[Missing()] * 4), MemoryStore(clock)
    service = top_ups(rail, store, clock)
    for _ in range(3):
        with pytest.raises(PaymentOutcomeUnknown):
            await service.top_up(header(wallet))
    fourth = header(wallet)
    with pytest.raises(PaymentRefused, match="wait until one is settled"):
        await service.top_up(fourth)
    refused = (await store.payments.list(IntentState.FAILED))[0]
    assert (refused.reason, refused.since_block) == ("too_many_open", 0)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    await service.reconcile()
    assert (await service.top_up(fourth)).is_new
    assert len(rail.settled) == 5


class Slow(FakeRail):
    """Takes its time to verify, so that all that comes at once is there before any is sent."""

    async def verify(self, payment: Payment) -> int:
        await asyncio.sleep(0.01)
        return 1

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        return Missing()


async def test_of_ten_payments_of_one_payer_at_once_no_more_than_three_are_sent(clock: FixedClock) -> None:
    wallet, rail, waiting = Wallet(), Slow(), Waiting(timeout_s=0.2, poll_s=0.1)
    store = MemoryStore(clock)
    service = TopUps([rail], store.payments, store.ledger, MemoryRateLimiter(), clock, waiting)
    outcomes = await asyncio.gather(
        *(service.top_up(header(wallet)) for _ in range(10)), return_exceptions=True
    )
    assert len(rail.settled) <= 3
    assert {type(outcome) for outcome in outcomes} <= {PaymentRefused, PaymentOutcomeUnknown}


async def test_a_chain_that_falls_silent_before_a_second_payment_was_sent_leaves_nothing_open(
    clock: FixedClock,
) -> None:
    class NoBalance(Flaky):
        async def balance(self, payment: Payment) -> int:
            raise RpcUnavailable

    wallet, store = Wallet(), MemoryStore(clock)
    service = top_ups(NoBalance(Missing()), store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(wallet))
    with pytest.raises(RailUnavailable):
        await service.top_up(header(wallet))
    assert [i.state for i in await store.payments.list()] == [IntentState.FAILED, IntentState.UNKNOWN]


class Hanging(FakeRail):
    """Never answers one of its questions."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    async def _hang(self, question: str) -> None:
        if self.question == question:
            await asyncio.Event().wait()

    async def verify(self, payment: Payment) -> int:
        await self._hang("verify")
        return 1

    async def balance(self, payment: Payment) -> int:
        await self._hang("balance")
        return 10**9

    async def settle(self, payment: Payment, record: Record) -> None:
        await self._hang("nonce")
        await super().settle(payment, record)
        await self._hang("settle")

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        await self._hang("look")
        return Missing()


@pytest.mark.parametrize(
    ("question", "error", "state"),
    [
        ("verify", RailUnavailable, IntentState.FAILED),
        ("balance", RailUnavailable, IntentState.FAILED),
        ("nonce", PaymentOutcomeUnknown, IntentState.VERIFIED),
        ("settle", PaymentOutcomeUnknown, IntentState.UNKNOWN),
        ("look", PaymentOutcomeUnknown, IntentState.UNKNOWN),
    ],
)
async def test_a_client_waits_no_longer_than_the_timeout_whatever_does_not_answer(
    clock: FixedClock, question: str, error: type[Exception], state: IntentState
) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Flaky(Missing()), store, clock).top_up(header(wallet))
    waiting = Waiting(timeout_s=0.2, poll_s=0.01)
    service = TopUps([Hanging(question)], store.payments, store.ledger, MemoryRateLimiter(), clock, waiting)
    async with asyncio.timeout(1):
        with pytest.raises(error):
            await service.top_up(header(wallet))
        await service.close()
    assert (await store.payments.list())[0].state is state


class Unproved(FakeRail):
    """Only its chain can say who signed."""

    def check_signature(self, payment: Payment) -> bool:
        return False


async def test_signatures_that_only_a_chain_can_check_are_limited_for_all_together(clock: FixedClock) -> None:
    service = top_ups(Unproved(), MemoryStore(clock), clock)
    for n in range(60):
        await service.top_up(header(Wallet()), f"address:{n}")
    with pytest.raises(RateLimited):
        await service.top_up(header(Wallet()), "address:60")


async def test_one_client_does_not_use_up_what_all_contract_wallets_share(clock: FixedClock) -> None:
    service = top_ups(Unproved(), MemoryStore(clock), clock)
    outcomes = [
        await asyncio.gather(service.top_up(header(Wallet()), "address:1"), return_exceptions=True)
        for _ in range(70)
    ]
    assert sum(isinstance(outcome, RateLimited) for [outcome] in outcomes) == 40
    for _ in range(30):
        await service.top_up(header(Wallet()), "address:2")


async def test_a_process_that_may_not_send_looks_and_sends_nothing(clock: FixedClock) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Mute(), store, clock).top_up(header(wallet))
    clock.advance(seconds=61)
    rail = Flaky(Missing())
    assert await top_ups(rail, store, clock).reconcile(may_send=False) == []
    assert rail.settled == []
    sent = top_ups(Flaky(Missing()), store, clock)
    assert [i.state for i in await sent.reconcile()] == [IntentState.SUBMITTING]
    rail.script = [Missing()]
    assert await top_ups(rail, store, clock).reconcile(may_send=False) == []
    assert rail.resent == 0


async def test_the_eleventh_top_up_of_a_minute_is_429(clock: FixedClock) -> None:
    service, wallet = top_ups(FakeRail(), MemoryStore(clock), clock), Wallet()
    for _ in range(10):
        await service.top_up(header(wallet))
    with pytest.raises(RateLimited):
        await service.top_up(header(wallet))


async def test_one_payments_defect_does_not_keep_the_others_from_being_credited(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, first, second = MemoryStore(clock), Wallet(), Wallet()
    rail = Flaky(Missing(), Missing(), KeyError("a defect that quotes a value"))
    service = top_ups(rail, store, clock)
    for wallet in (first, second):
        with pytest.raises(PaymentOutcomeUnknown):
            await service.top_up(header(wallet))
    assert [i.payer for i in await service.reconcile()] == [second.id]
    assert "payment_look_failed" in caplog.text
    assert "quotes a value" not in caplog.text
    assert [i.payer for i in await service.reconcile()] == [first.id]


async def test_a_payment_that_lapsed_while_its_outcome_is_open_is_no_reason_to_sign_another_one(
    clock: FixedClock,
) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    service = top_ups(Flaky(Missing(), Missing()), store, clock)
    payment = header(wallet)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(payment)
    clock.advance(seconds=400)
    with pytest.raises(PaymentInProgress):
        await service.top_up(payment)


async def test_a_payment_that_is_valid_for_longer_than_is_asked_for_is_told_for_how_long(
    clock: FixedClock,
) -> None:
    service, now = top_ups(FakeRail(), MemoryStore(clock), clock), int(clock.now().timestamp())
    await service.top_up(Wallet().payment(validBefore=str(now + 900))["payment-signature"])
    with pytest.raises(PaymentRefused, match="more than 15 minutes: sign one that is valid for 300 seconds"):
        await service.top_up(Wallet().payment(validBefore=str(now + 901))["payment-signature"])


class Relayed(FakeRail):
    """Settled by somebody else, whose transaction is not known here."""

    async def settle(self, payment: Payment, record: Record) -> None:
        await record(Submission(None, None))
        self.settled.append(payment)

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        return Missing()


async def test_what_was_handed_to_a_facilitator_is_not_handed_over_again(clock: FixedClock) -> None:
    rail, store = Relayed(), MemoryStore(clock)
    service = top_ups(rail, store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    clock.advance(seconds=61)
    assert await service.reconcile() == []
    assert len(rail.settled) == 1
