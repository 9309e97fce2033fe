"""Top-ups: the settlement state machine, from a payment header to credit in the ledger.

::

    received ──► verified ──► submitting ──► credited ──► (final)
       │            │             │  ▲           │
       ▼            ▼             ▼  │           ▼
     failed       failed        unknown       reversed
                                   │
                                   ▼
                            credited, failed

Every arrow is durable before anything acts on it. Until ``submitting`` nothing has left this server; from there on
only the chain decides what became of the money. Credit and ``credited`` are one database transaction.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vectoll.core.payment_header import parse_payment, parse_payment_header, render_payment
from vectoll.core.topup_rules import (
    check_times,
    credit_of,
    is_abandoned,
    is_open_again,
    is_stale,
    may_be_contract,
    original_result,
    reversal_of,
)
from vectoll.domain.errors import RateLimited, Unavailable
from vectoll.domain.limits import RateLimit
from vectoll.domain.payments import (
    MAX_TOP_UP,
    MIN_TOP_UP,
    Arrived,
    Intent,
    IntentState,
    Missing,
    Never,
    Payment,
    PaymentInProgress,
    PaymentOption,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
    Submission,
    usdc_amount,
)
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.payments import EvidenceConsumed, PaymentStore, Rail
from vectoll.ports.wallets import RpcUnavailable

_log = logging.getLogger(__name__)

ATTEMPTS_PER_PAYER = RateLimit(10)
"""Top-ups a minute that one wallet may start."""

UNPROVED_ATTEMPTS = RateLimit(60)
"""Top-ups a minute, by all together, whose signature only a chain can check: each costs a call to it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long a client is kept waiting for its chain, and how often the chain is asked."""

    timeout_s: float = 45.0
    poll_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """A credited payment, and whether this very call credited it."""

    intent: Intent
    is_new: bool


class TopUps:
    """Settles payments and keeps watching those whose outcome is open."""

    def __init__(
        self,
        rails: Sequence[Rail],
        store: PaymentStore,
        limiter: RateLimiter,
        clock: Clock,
        waiting: Waiting = Waiting(),  # frozen
    ) -> None:
        self._rails: Mapping[str, Rail] = {rail.option.network: rail for rail in rails}
        self._store = store
        self._limiter = limiter
        self._clock = clock
        self._waiting = waiting
        self._tasks: dict[str, asyncio.Task[Intent]] = {}

    @property
    def options(self) -> Sequence[PaymentOption]:
        """The ways to pay, in the configured order."""
        return [rail.option for rail in self._rails.values()]

    async def top_up(self, header: str) -> Outcome:
        """Settle a payment and credit its payer. A repeat finds the first result.

        Raises PaymentRefused, PaymentInProgress, PaymentOutcomeUnknown, RailUnavailable, RateLimited. Once the
        payment is on its way the work runs to its end, even when this call is cancelled.
        """
        payment = parse_payment_header(header, self.options)
        earlier = await self._store.get(payment.id)
        if earlier is not None and earlier.state is IntentState.CREDITED:
            return Outcome(original_result(earlier, payment), is_new=False)
        await self._admit(payment)
        intent = await self._claim(payment, earlier)
        task = asyncio.create_task(self._settle(payment, intent))
        self._tasks[intent.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(intent.id, None))
        task.add_done_callback(_retrieve)
        return Outcome(await asyncio.shield(task), is_new=True)

    async def _admit(self, payment: Payment) -> None:
        """Everything that can be refused without asking a chain."""
        if not MIN_TOP_UP <= usdc_amount(payment.base_units) <= MAX_TOP_UP:
            raise PaymentRefused("amount_out_of_range", "A top-up is $5 to $10,000.")
        check_times(payment, self._clock.now())
        rail = self._rails[payment.option.network]
        if rail.check_signature(payment):
            await self._count(ATTEMPTS_PER_PAYER, "top-ups", payment.payer.text)
        elif may_be_contract(payment):  # unproved: it must not use up the share of the payer it names
            await self._count(UNPROVED_ATTEMPTS, "top-ups-unproved")
        else:
            raise PaymentRefused("invalid_signature", "The payment's signature does not match its payer.")

    async def _count(self, limit: RateLimit, *key: str) -> None:
        decision = await self._limiter.hit(limit, *key)
        if not decision.allowed:
            raise RateLimited(f"Too many top-ups: {limit.amount} per minute.", decision.state.reset_s)

    async def _claim(self, payment: Payment, earlier: Intent | None) -> Intent:
        """Make this payment ours to settle; the unique insert, or the one change of version, decides a race."""
        now = self._clock.now()
        fresh = Intent(
            id=payment.id,
            network=payment.option.network,
            payer=payment.payer.text,
            base_units=payment.base_units,
            payload=render_payment(payment),
            state=IntentState.RECEIVED,
            created_at=now,
            updated_at=now,
        )
        if earlier is None and (earlier := await self._store.insert(fresh)) is None:
            return fresh
        if is_open_again(earlier, now):
            reopened = await self._store.advance(earlier, replace(fresh, created_at=earlier.created_at))
            if reopened is not None:
                return reopened
        raise PaymentInProgress(payment.id)

    async def _settle(self, payment: Payment, intent: Intent) -> Intent:
        rail = self._rails[intent.network]
        intent = await self._verify(rail, payment, intent)
        intent = await self._submit(rail, payment, intent)
        return await self._await_arrival(rail, payment, intent)

    async def _verify(self, rail: Rail, payment: Payment, intent: Intent) -> Intent:
        try:
            since_block = await rail.verify(payment)
        except PaymentRefused as error:
            await self._move(intent, state=IntentState.FAILED, reason=error.reason)
            raise
        except RpcUnavailable:
            await self._move(intent, state=IntentState.FAILED, reason="rail_unavailable")
            raise RailUnavailable from None
        return await self._move(intent, state=IntentState.VERIFIED, since_block=since_block)

    async def _submit(self, rail: Rail, payment: Payment, intent: Intent) -> Intent:
        recorded = intent

        async def record(submission: Submission) -> None:
            nonlocal recorded
            recorded = await self._move(
                intent, state=IntentState.SUBMITTING, tx=submission.tx, raw_tx=submission.raw_tx
            )

        try:
            await rail.settle(payment, record)
        except RpcUnavailable:
            if recorded is intent:  # nothing was sent; reconciling sends it when the chain answers again
                raise PaymentOutcomeUnknown(intent.id) from None
        return recorded

    async def _await_arrival(self, rail: Rail, payment: Payment, intent: Intent) -> Intent:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._waiting.timeout_s
        while True:
            intent = await self._look(rail, payment, intent)
            if intent.state is IntentState.CREDITED:
                return intent
            if intent.state is IntentState.FAILED:
                raise PaymentRefused(
                    "settlement_failed", "The chain did not execute the payment; no money moved."
                )
            if loop.time() >= deadline:
                await self._move(intent, state=IntentState.UNKNOWN)
                raise PaymentOutcomeUnknown(intent.id)
            await asyncio.sleep(self._waiting.poll_s)

    async def _look(self, rail: Rail, payment: Payment, intent: Intent) -> Intent:
        """Ask the chain once and draw the conclusion; the intent unchanged when there is none to draw."""
        try:
            sighting = await rail.look(payment, intent)
        except RpcUnavailable:
            return intent
        match sighting:
            case Arrived() if intent.state is IntentState.CREDITED:
                return await self._move(intent, is_final=True) if sighting.is_final else intent
            case Arrived() if sighting.confirmations >= rail.confirmations:
                return await self._credit(intent, sighting)
            case Never() if intent.state is IntentState.CREDITED:
                return await self._reverse(intent, sighting)
            case Never():
                return await self._move(intent, state=IntentState.FAILED, reason=sighting.reason)
            case Missing() | Arrived():
                return intent

    async def _credit(self, intent: Intent, arrived: Arrived) -> Intent:
        now = self._clock.now()
        credited, transfer = credit_of(intent, arrived, now)
        try:
            stored = await self._store.credit(intent, credited, transfer)
        except EvidenceConsumed:
            return await self._move(intent, state=IntentState.FAILED, reason="evidence_consumed")
        return stored or await self._reread(intent)

    async def _reverse(self, intent: Intent, never: Never) -> Intent:
        now = self._clock.now()
        reversed_, transfer = reversal_of(intent, never.reason, now)
        return await self._store.reverse(intent, reversed_, transfer) or await self._reread(intent)

    async def reconcile(self) -> Sequence[Intent]:
        """Look once at every payment whose outcome is open; those whose state changed, as they are now."""
        changed = []
        for intent in await self._store.open():
            if intent.id not in self._tasks and intent.network in self._rails:
                try:
                    after = await self._reconcile(intent)
                except (RpcUnavailable, PaymentInProgress, PaymentOutcomeUnknown, Unavailable):
                    continue  # no answer now, or another process is at it: the next round looks again
                except PaymentRefused as error:  # the operator's own terms have changed since
                    _log.warning("payment_not_watched", extra={"payment": intent.id, "reason": error.reason})
                    continue
                if (after.state, after.is_final) != (intent.state, intent.is_final):
                    changed.append(after)
        return changed

    async def _reconcile(self, intent: Intent) -> Intent:
        rail = self._rails[intent.network]
        payment = parse_payment(intent.payload, [rail.option])
        if intent.state is IntentState.RECEIVED:  # nothing was asked or sent: the client may come again
            if not is_stale(intent, self._clock.now()):
                return intent
            return await self._move(intent, state=IntentState.FAILED, reason="interrupted")
        after = await self._look(rail, payment, intent)
        if after is intent and intent.raw_tx is not None:
            await rail.resend(intent)
        elif after is intent and is_abandoned(intent, self._clock.now()):
            return await self._submit(rail, payment, intent)
        return after

    async def watch(self, interval_s: float) -> None:
        """Reconcile now and every ``interval_s`` seconds, until cancelled."""
        while True:
            try:
                await self.reconcile()
            except Exception:  # noqa: BLE001 - logged; one round's defect must not end the watch over everybody's money
                _log.exception("reconcile_failed")
            await asyncio.sleep(interval_s)

    async def close(self) -> None:
        """Wait for the settlements in progress; each ends within the waiting time."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _move(self, intent: Intent, **changes: object) -> Intent:
        """A durable step. Raises PaymentInProgress when another process has taken the intent further."""
        changed = replace(intent, updated_at=self._clock.now(), **changes)  # type: ignore[arg-type]
        stored = await self._store.advance(intent, changed)
        if stored is None:
            raise PaymentInProgress(intent.id)
        return stored

    async def _reread(self, intent: Intent) -> Intent:
        return await self._store.get(intent.id) or intent


def _retrieve(task: "asyncio.Task[Intent]") -> None:
    """A settlement that outlives its client must not leave an unretrieved exception behind."""
    if not task.cancelled():
        task.exception()
