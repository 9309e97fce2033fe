"""Whose an unsent payment is: what nobody is at goes on at once, and what somebody is at is left alone."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.ledger import FixedClock
from tests.wallets import OPTION, FakeRail, Wallet

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.memory_wallets import MemoryPayments
from vectoll.core.topup import TopUps
from vectoll.core.topup_settle import Waiting
from vectoll.domain.errors import Unavailable
from vectoll.domain.payments import (
    Intent,
    IntentState,
    Missing,
    Payment,
    PaymentId,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    Sighting,
)
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcUnavailable


class Outage(MemoryPayments):
    """A database that falls silent as a payment is to reach one state, just before or just after it is written."""

    def __init__(self, store: MemoryStore, at: IntentState, *, is_written: bool) -> None:
        super().__init__(store.ledger)
        store.payments = self
        self._at: IntentState | None = at
        self._is_written = is_written

    def end(self) -> None:
        """It is back."""
        self._at = None

    async def insert(self, intent: Intent) -> Intent | None:
        return await self._write(intent, super().insert(intent))

    async def advance(self, old: Intent, new: Intent) -> Intent | None:
        return await self._write(new, super().advance(old, new))

    async def _write(self, new: Intent, write: Coroutine[Any, Any, Intent | None]) -> Intent | None:
        if new.state is not self._at:
            return await write
        if self._is_written:
            await write
        write.close()
        raise Unavailable("The database does not answer.")


class Rejecting(FakeRail):
    """Nothing has arrived yet when it is looked for."""

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        return await super().look(payment, intent) if intent.tx else Missing()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime.now(UTC))


def top_ups(rail: FakeRail, store: MemoryStore, clock: FixedClock, *, is_alone: bool = False) -> TopUps:
    limiter, waiting = MemoryRateLimiter(), Waiting(timeout_s=0, poll_s=0)
    return TopUps([rail], store.payments, store.ledger, limiter, clock, waiting, is_alone=is_alone)


def header(wallet: Wallet) -> str:
    return wallet.payment()["payment-signature"]


async def state_of_the_only(payments: MemoryPayments) -> IntentState:
    [intent] = await payments.list()
    return intent.state


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_database_that_falls_silent_as_a_payment_is_verified_leaves_the_outcome_open(
    clock: FixedClock, is_written: bool
) -> None:
    """503 would have the client pay again, and what may be written down as verified may yet be sent."""
    store = MemoryStore(clock)
    Outage(store, IntentState.VERIFIED, is_written=is_written)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(FakeRail(), store, clock).top_up(header(Wallet()))


@pytest.mark.parametrize(
    ("at", "is_written"),
    [(IntentState.VERIFIED, True), (IntentState.SUBMITTING, False), (IntentState.SUBMITTING, True)],
)
async def test_a_verified_payment_is_settled_as_soon_as_its_database_is_back(
    clock: FixedClock, at: IntentState, is_written: bool
) -> None:
    store = MemoryStore(clock)
    payments = Outage(store, at, is_written=is_written)
    service = top_ups(Rejecting(), store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(header(Wallet()))
    payments.end()
    for _ in range(2):
        await service.reconcile()
    assert await state_of_the_only(payments) is IntentState.CREDITED


@pytest.mark.parametrize(
    ("at", "is_written"),
    [(IntentState.RECEIVED, False), (IntentState.RECEIVED, True), (IntentState.VERIFIED, False)],
)
@pytest.mark.parametrize("is_watched", [False, True])
async def test_a_payment_that_was_not_verified_may_come_again_as_soon_as_its_database_is_back(
    clock: FixedClock, at: IntentState, is_written: bool, is_watched: bool
) -> None:
    store, payment = MemoryStore(clock), header(Wallet())
    payments = Outage(store, at, is_written=is_written)
    service = top_ups(FakeRail(), store, clock)
    with pytest.raises((Unavailable, PaymentOutcomeUnknown)):
        await service.top_up(payment)
    payments.end()
    if is_watched:
        await service.reconcile()
    assert (await service.top_up(payment)).is_new


async def test_a_payment_that_was_not_verified_is_ended_also_when_the_operators_terms_have_changed_since(
    clock: FixedClock,
) -> None:
    store, elsewhere = MemoryStore(clock), replace(OPTION, pay_to="0x" + "77" * 20)
    Outage(store, IntentState.VERIFIED, is_written=False)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(FakeRail(), store, clock).top_up(header(Wallet()))
    changed = await top_ups(FakeRail(elsewhere), store, clock, is_alone=True).reconcile()
    assert [i.state for i in changed] == [IntentState.FAILED]


async def test_a_reopened_payment_that_another_gateway_is_at_is_left_alone(clock: FixedClock) -> None:
    store, payment = MemoryStore(clock), header(Wallet())
    payments = Outage(store, IntentState.VERIFIED, is_written=False)
    service = top_ups(Rejecting(), store, clock)
    with pytest.raises(PaymentOutcomeUnknown):
        await service.top_up(payment)
    payments.end()
    [left] = await payments.list()
    clock.advance(seconds=61)
    again = await payments.advance(left, replace(left, updated_at=clock.now()))
    assert again is not None
    for state in (IntentState.RECEIVED, IntentState.VERIFIED):
        theirs = await payments.advance(again, replace(again, state=state, updated_at=clock.now()))
        assert theirs is not None
        assert await service.reconcile() == []
        with pytest.raises(PaymentInProgress):
            await service.top_up(payment)
        again = theirs


@pytest.mark.parametrize(("after_s", "is_theirs"), [(104, True), (106, False)])
async def test_another_gateway_has_its_waiting_time_and_a_little_more(
    clock: FixedClock, after_s: int, is_theirs: bool
) -> None:
    store, payment = MemoryStore(clock), header(Wallet())
    Outage(store, IntentState.VERIFIED, is_written=False)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(FakeRail(), store, clock).top_up(payment)
    patient = Waiting(timeout_s=90)
    other = TopUps([FakeRail()], store.payments, store.ledger, MemoryRateLimiter(), clock, patient)
    clock.advance(seconds=after_s)
    await other.reconcile()
    assert (await state_of_the_only(store.payments) is IntentState.RECEIVED) is is_theirs


class Mute(FakeRail):
    """Falls silent before anything was recorded."""

    async def settle(self, payment: Payment, record: Record) -> None:
        raise RpcUnavailable


@pytest.mark.parametrize("state", [IntentState.RECEIVED, IntentState.VERIFIED])
async def test_where_one_process_is_alone_what_is_not_its_own_is_nobodys(
    clock: FixedClock, state: IntentState
) -> None:
    store, payment = MemoryStore(clock), header(Wallet())
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Mute(), store, clock).top_up(payment)
    [verified] = await store.payments.list()
    assert await store.payments.advance(verified, replace(verified, state=state))
    others = top_ups(Rejecting(), store, clock)
    assert await others.reconcile() == [], "its own process may still be at it"
    restarted = top_ups(Rejecting(), store, clock, is_alone=True)
    await restarted.reconcile()
    if state is IntentState.RECEIVED:
        assert (await restarted.top_up(payment)).is_new
    await restarted.reconcile()
    assert await state_of_the_only(store.payments) is IntentState.CREDITED


async def test_a_process_that_is_alone_leaves_what_it_is_settling_alone(clock: FixedClock) -> None:
    class Slow(FakeRail):
        async def verify(self, payment: Payment) -> int:
            await service.reconcile()
            return await super().verify(payment)

        async def settle(self, payment: Payment, record: Record) -> None:
            await service.reconcile()
            await super().settle(payment, record)

    rail, store = Slow(), MemoryStore(clock)
    service = TopUps([rail], store.payments, store.ledger, MemoryRateLimiter(), clock, is_alone=True)
    assert (await service.top_up(header(Wallet()))).is_new
    assert len(rail.settled) == 1


async def test_a_client_that_leaves_while_its_payment_is_written_down_is_credited_all_the_same(
    clock: FixedClock,
) -> None:
    is_asked, may_go_on = asyncio.Event(), asyncio.Event()

    class Patient(MemoryPayments):
        async def insert(self, intent: Intent) -> Intent | None:
            is_asked.set()
            await may_go_on.wait()
            return await super().insert(intent)

    store = MemoryStore(clock)
    store.payments = Patient(store.ledger)
    service = top_ups(FakeRail(), store, clock)
    client = asyncio.create_task(service.top_up(header(Wallet())))
    await is_asked.wait()
    client.cancel()
    await asyncio.wait([client])
    may_go_on.set()
    await service.close()
    assert await state_of_the_only(store.payments) is IntentState.CREDITED


async def test_a_verified_payment_that_was_left_behind_is_not_sent_beside_others_that_use_up_its_funds(
    clock: FixedClock,
) -> None:
    class Poor(FakeRail):
        async def balance(self, payment: Payment) -> int:
            return 9_999_999

        async def look(self, payment: Payment, intent: Intent) -> Sighting:
            return Missing()

    store, rail = MemoryStore(clock), Poor()
    payments = store.payments
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Mute(), store, clock).top_up(header(Wallet()))
    service = top_ups(rail, store, clock)
    [left] = await payments.list()
    sent = replace(left, id=PaymentId(f"{left.id}1"), state=IntentState.SUBMITTING, tx="0x01", raw_tx=b"")
    await payments.insert(sent)
    clock.advance(seconds=61)
    assert await service.reconcile() == []
    assert rail.settled == []
    assert await payments.advance(sent, replace(sent, state=IntentState.FAILED))
    assert [i.state for i in await service.reconcile()] == [IntentState.SUBMITTING]
