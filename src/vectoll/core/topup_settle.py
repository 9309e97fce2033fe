"""The arrows of the settlement state machine: verify, submit, look, credit, reverse. Drawn in ``core.topup``.

Every arrow is durable before anything acts on it. Until ``submitting`` nothing has left this server; from there on
only the chain decides what became of the money. Credit and ``credited`` are one database transaction.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from vectoll.core.topup_rules import check_covered, check_open, credit_of, restoral_of, reversal_of
from vectoll.domain.errors import InvalidRequest, Unavailable
from vectoll.domain.ledger import Transfer
from vectoll.domain.payments import (
    PENDING,
    Arrived,
    Intent,
    IntentState,
    Missing,
    Never,
    Payment,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
    Sighting,
    Submission,
    usdc_amount,
)
from vectoll.ports.clock import Clock
from vectoll.ports.ledger import Ledger
from vectoll.ports.payment_metrics import PaymentMetrics
from vectoll.ports.payments import EvidenceConsumed, NothingSent, PaymentStore, Rail
from vectoll.ports.wallets import RpcSilent, RpcUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long a client is kept waiting for its chain, from first to last, and how often the chain is asked."""

    timeout_s: float = 45.0
    poll_s: float = 0.5
    resend_s: float = 1.0
    """How often the transaction is sent again meanwhile: another gateway with its key may have replaced it."""


PATIENT = Waiting()


class Settlement:
    """Brings one payment further. ``rails`` by CAIP-2 id."""

    def __init__(
        self,
        rails: Mapping[str, Rail],
        store: PaymentStore,
        ledger: Ledger,
        clock: Clock,
        waiting: Waiting,
        metrics: PaymentMetrics,
    ) -> None:
        self._rails = rails
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._waiting = waiting
        self._metrics = metrics

    async def settle(self, payment: Payment, intent: Intent) -> Intent:
        """From received to credited.

        Raises PaymentRefused and RailUnavailable when nothing was sent, PaymentInProgress when another process took
        it further, PaymentOutcomeUnknown for all else: once it is verified, a payment may yet be sent and arrive.
        """
        rail = self._rails[intent.network]
        deadline = asyncio.get_running_loop().time() + self._waiting.timeout_s
        since_block = await self._or_give_up(intent, _by(deadline, rail.verify(payment)))
        try:
            # of a payment that was sent before, the first attempt's
            first = intent.since_block or since_block
            verified = await self.move(intent, state=IntentState.VERIFIED, since_block=first)
            check = self._check_others(rail, payment, verified, deadline)
            await self._or_give_up(verified, check, since_block=intent.since_block)
            sent = await self.submit(rail, payment, verified, deadline)
            return await self._await_arrival(rail, payment, sent, deadline)
        except RailUnavailable:
            raise
        except (Unavailable, InvalidRequest) as error:
            # the ledger's: it says that nothing was charged, which is not so
            raise PaymentOutcomeUnknown(intent.id) from error

    async def _check_others(
        self, rail: Rail, payment: Payment, verified: Intent, deadline: float | None
    ) -> None:
        """What else the payer has open. Raises PaymentRefused, RpcUnavailable.

        Asked when this one is on record: of many at once none slips through.
        """
        at_large = await self._store.open_of(verified.network, verified.payer)
        others = [other for other in at_large if other.id != verified.id]
        check_open(others)
        if others:
            check_covered(payment, others, await _by(deadline, rail.balance(payment)))

    async def _or_give_up(self, intent: Intent, check: Awaitable[T], **changes: object) -> T:
        """What a check answers. Where it fails nothing was sent, nor will be: raises what the client is told."""
        try:
            return await check
        except PaymentRefused as refused:
            await self.move(intent, state=IntentState.FAILED, reason=refused.reason, **changes)
            raise
        except RpcUnavailable:
            await self.move(intent, state=IntentState.FAILED, reason="rail_unavailable", **changes)
            raise RailUnavailable from None

    async def submit(
        self, rail: Rail, payment: Payment, intent: Intent, deadline: float | None = None
    ) -> Intent:
        """Send it. Raises PaymentOutcomeUnknown when its chain falls silent before anything was recorded.

        Raises RailUnavailable when it was recorded, and certainly not sent.
        """
        recorded = intent
        # its chain dropped it, and its credit stands meanwhile
        is_credited = intent.state is IntentState.CREDITED
        state = intent.state if is_credited else IntentState.SUBMITTING

        async def record(submission: Submission) -> None:
            nonlocal recorded
            recorded = await self.move(recorded, state=state, tx=submission.tx, raw_tx=submission.raw_tx)

        try:
            await _by(deadline, rail.settle(payment, record))
        except NothingSent:
            await self.move(recorded, state=IntentState.FAILED, reason="rail_unavailable")
            raise RailUnavailable from None
        except RpcUnavailable:
            if recorded is intent:  # reconciling finds out, and sends it when the chain answers again
                raise PaymentOutcomeUnknown(intent.id) from None
        return recorded

    async def resubmit(
        self, rail: Rail, payment: Payment, intent: Intent, deadline: float | None = None
    ) -> Intent:
        """``submit``, if it would still be accepted; the intent unchanged, and no fee spent, if not."""
        try:
            await _by(deadline, rail.verify(payment))
            if intent.state is IntentState.VERIFIED:  # left behind before this was asked, or long after
                await self._check_others(rail, payment, intent, deadline)
        except PaymentRefused:
            return intent
        return await self.submit(rail, payment, intent, deadline)

    async def _await_arrival(self, rail: Rail, payment: Payment, intent: Intent, deadline: float) -> Intent:
        loop = asyncio.get_running_loop()
        resend_at = loop.time() + self._waiting.resend_s
        while True:
            intent = await self._look(rail, payment, intent, deadline)
            if intent.state is IntentState.CREDITED:
                return intent
            if intent.state is IntentState.FAILED:
                raise PaymentRefused(
                    "settlement_failed", "The chain did not execute the payment; no money moved."
                )
            if loop.time() >= deadline:
                await self.move(intent, state=IntentState.UNKNOWN)
                raise PaymentOutcomeUnknown(intent.id)
            if loop.time() >= resend_at and intent.raw_tx is not None:
                intent = await self._resend(rail, payment, intent, deadline)
                resend_at = loop.time() + self._waiting.resend_s
            await asyncio.sleep(self._waiting.poll_s)

    async def _resend(self, rail: Rail, payment: Payment, intent: Intent, deadline: float) -> Intent:
        """Send it again, and anew where another gateway's transaction took its place."""
        try:
            if await _by(deadline, rail.resend(intent)):
                return intent
            return await self.resubmit(rail, payment, intent, deadline)
        except (RpcUnavailable, PaymentOutcomeUnknown):  # the next look finds out
            return intent

    async def look_again(self, payment: Payment, intent: Intent) -> Intent:
        """Ask once for a payment that has failed; credited when it is there after all."""
        deadline = asyncio.get_running_loop().time() + self._waiting.timeout_s
        return await self._look(self._rails[intent.network], payment, intent, deadline)

    async def _look(self, rail: Rail, payment: Payment, intent: Intent, deadline: float) -> Intent:
        """Ask the chain once and draw the conclusion; the intent unchanged when there is none to draw.

        Absence is left to the watch, which has the time to ask again.
        """
        try:
            sighting = await _by(deadline, rail.look(payment, intent))
        except RpcUnavailable:
            return intent
        if isinstance(sighting, Never) and sighting.by_absence:
            return intent
        return await self.conclude(rail, intent, sighting)

    async def conclude(self, rail: Rail, intent: Intent, sighting: Sighting) -> Intent:
        """Draw the conclusion; the intent unchanged when there is none to draw."""
        match sighting:
            case Arrived() if intent.state is IntentState.CREDITED:
                return await self.move(intent, is_final=True) if sighting.is_final else intent
            case Arrived() if intent.state is IntentState.REVERSED:
                return await self._restore(rail, intent, sighting) if sighting.is_final else intent
            case _ if intent.state is IntentState.REVERSED:
                return intent
            case Arrived() if sighting.confirmations >= rail.confirmations:
                return await self._credit(rail, intent, sighting)
            case Never() if intent.state is IntentState.CREDITED:
                return await self._reverse(rail, intent, sighting)
            case Never():
                return await self.move(intent, state=IntentState.FAILED, reason=sighting.reason)
            case Missing(reason) if reason and reason != intent.reason and intent.state in PENDING:
                return await self.move(intent, reason=reason)
            case Missing() | Arrived():
                return intent

    async def _credit(self, rail: Rail, intent: Intent, arrived: Arrived) -> Intent:
        return await self._post(rail, intent, *credit_of(intent, arrived, self._clock.now()))

    async def _restore(self, rail: Rail, intent: Intent, arrived: Arrived) -> Intent:
        reversal = await self._ledger.transfer(intent.reversal_id)
        assert reversal is not None, "posted with the state"
        return await self._post(rail, intent, *restoral_of(intent, reversal, arrived, self._clock.now()))

    async def _post(self, rail: Rail, intent: Intent, credited: Intent, transfer: Transfer) -> Intent:
        try:
            stored = await self._store.credit(intent, credited, transfer)
        except EvidenceConsumed:
            return await self.move(intent, state=IntentState.FAILED, reason="evidence_consumed")
        if stored is None:
            return await self._reread(intent)
        self._metrics.credited(rail.option.family, transfer.amount)
        return stored

    async def _reverse(self, rail: Rail, intent: Intent, never: Never) -> Intent:
        reversed_, transfer = reversal_of(intent, never.reason, self._clock.now())
        stored = await self._store.reverse(intent, reversed_, transfer)
        if stored is None:
            return await self._reread(intent)
        self._metrics.reversed(rail.option.family, usdc_amount(intent.base_units))
        return stored

    async def move(self, intent: Intent, **changes: object) -> Intent:
        """A durable step. Raises PaymentInProgress when another process has taken the intent further."""
        changed = replace(intent, updated_at=self._clock.now(), **changes)  # type: ignore[arg-type]
        stored = await self._store.advance(intent, changed)
        if stored is None:
            raise PaymentInProgress(intent.id)
        return stored

    async def _reread(self, intent: Intent) -> Intent:
        return await self._store.get(intent.id) or intent


async def _by(deadline: float | None, answer: Awaitable[T]) -> T:
    """A rail's answer. Raises RpcSilent when there is none by then, in the event loop's time."""
    try:
        async with asyncio.timeout_at(deadline):
            return await answer
    except TimeoutError:
        raise RpcSilent from None
