"""The watch over open payments outlives whatever a round meets."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.ledger import FixedClock
from tests.wallets import OPTION, FakeRail, Wallet

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.topup import TopUps, Waiting
from vectoll.domain.errors import RateLimited
from vectoll.domain.ids import AccountId
from vectoll.domain.money import usd
from vectoll.domain.payments import (
    Intent,
    IntentState,
    Missing,
    Payment,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    Sighting,
)
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcUnavailable


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

    async def resend(self, intent: Intent) -> None:
        self.resent += 1


def top_ups(rail: FakeRail, store: MemoryStore, clock: FixedClock) -> TopUps:
    return TopUps([rail], store.payments, MemoryRateLimiter(), clock, Waiting(timeout_s=0, poll_s=0))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime.now(UTC))


def header(wallet: Wallet) -> str:
    return wallet.payment()["payment-signature"]


async def test_a_round_that_fails_is_logged_and_the_next_one_credits(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, wallet = MemoryStore(clock), Wallet()
    rail = Flaky(Missing(), ValueError("a defect"))
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
    assert await service.reconcile() == []
    assert rail.resent == 2
    assert [i.state for i in await service.reconcile()] == [IntentState.CREDITED]


async def test_other_terms_since_are_told_and_do_not_end_the_round(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Flaky(Missing()), store, clock).top_up(header(Wallet()))
    elsewhere = FakeRail(replace(OPTION, pay_to="0x" + "77" * 20))
    assert await top_ups(elsewhere, store, clock).reconcile() == []
    assert "payment_not_watched" in caplog.text


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


async def test_the_eleventh_top_up_of_a_minute_is_429(clock: FixedClock) -> None:
    service, wallet = top_ups(FakeRail(), MemoryStore(clock), clock), Wallet()
    for _ in range(10):
        await service.top_up(header(wallet))
    with pytest.raises(RateLimited):
        await service.top_up(header(wallet))
