"""Payments that were let go of before they were sent, for a database or a chain that fell silent."""

from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.ledger import FixedClock
from tests.wallets import FakeRail, Wallet

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
    PaymentOutcomeUnknown,
    Sighting,
)
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcUnavailable


class Outage(MemoryPayments):
    """A database that falls silent as a payment is to reach one state, just before or just after it is written."""

    def __init__(self, store: MemoryStore, at: IntentState, *, is_written: bool) -> None:
        super().__init__(store.ledger)
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


def top_ups(rail: FakeRail, payments: MemoryPayments, clock: FixedClock) -> TopUps:
    waiting = Waiting(timeout_s=0, poll_s=0)
    return TopUps([rail], payments, MemoryRateLimiter(), clock, waiting)


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
    payments = Outage(MemoryStore(clock), IntentState.VERIFIED, is_written=is_written)
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(FakeRail(), payments, clock).top_up(header(Wallet()))


class Mute(FakeRail):
    """Falls silent before anything was recorded."""

    async def settle(self, payment: Payment, record: Record) -> None:
        raise RpcUnavailable


async def test_a_verified_payment_that_was_left_behind_is_not_sent_beside_others_that_use_up_its_funds(
    clock: FixedClock,
) -> None:
    class Poor(FakeRail):
        async def balance(self, payment: Payment) -> int:
            return 9_999_999

        async def look(self, payment: Payment, intent: Intent) -> Sighting:
            return Missing()

    wallet, payments, rail = Wallet(), MemoryStore(clock).payments, Poor()
    with pytest.raises(PaymentOutcomeUnknown):
        await top_ups(Mute(), payments, clock).top_up(header(wallet))
    service = top_ups(rail, payments, clock)
    [left] = await payments.list()
    sent = replace(left, id=PaymentId(f"{left.id}1"), state=IntentState.SUBMITTING, tx="0x01", raw_tx=b"")
    await payments.insert(sent)
    clock.advance(seconds=61)
    assert await service.reconcile() == []
    assert rail.settled == []
    assert await payments.advance(sent, replace(sent, state=IntentState.FAILED))
    assert [i.state for i in await service.reconcile()] == [IntentState.SUBMITTING]
