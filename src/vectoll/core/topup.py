"""Top-ups: from a payment header to credit in the ledger, and the watch over payments whose outcome is open.

::

    received ──► verified ──► submitting ──► credited ──► (final)
       │            │             │  ▲           │
       ▼            ▼             ▼  │           ▼
     failed       failed        unknown       reversed
                                   │
                                   ▼
                            credited, failed

The arrows are ``core.topup_settle``.
"""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from vectoll.core.payment_header import parse_payment, parse_payment_header, render_payment
from vectoll.core.topup_rules import (
    check_times,
    is_abandoned,
    is_open_again,
    is_stale,
    is_timely,
    may_be_contract,
    original_result,
    outcome_of,
    reopened_as,
)
from vectoll.core.topup_settle import PATIENT, Settlement, Waiting
from vectoll.domain.errors import RateLimited, Unavailable, VectollError
from vectoll.domain.limits import RateLimit
from vectoll.domain.payments import (
    MAX_TOP_UP,
    MIN_TOP_UP,
    UNSETTLED,
    Intent,
    IntentState,
    Payment,
    PaymentInProgress,
    PaymentOption,
    PaymentOutcomeUnknown,
    PaymentRefused,
    usdc_amount,
)
from vectoll.domain.wallets import Family
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics, TopUpOutcome
from vectoll.ports.payments import PaymentStore, Rail
from vectoll.ports.wallets import RpcUnavailable

_log = logging.getLogger(__name__)

ATTEMPTS_PER_PAYER = RateLimit(10)
"""Top-ups a minute that one wallet may start."""

ATTEMPTS_PER_CLIENT = RateLimit(30)
"""Top-ups a minute that one client may start: a wallet costs nothing, so that limits per wallet alone are none."""

UNPROVED_ATTEMPTS = RateLimit(60)
"""Top-ups a minute, by all together, whose signature only a chain can check: each costs a call to it."""

REFUSED_KEPT = timedelta(days=1)
"""How long a payment that was refused before it was sent is remembered: strangers make as many as they like."""

_ROUNDS_PER_UPKEEP = 20
"""Every so many rounds of the watch, what is less urgent: old refusals, and the settlement keys' funds."""


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
        waiting: Waiting = PATIENT,
        metrics: PaymentMetrics = NO_PAYMENT_METRICS,
    ) -> None:
        self._rails: Mapping[str, Rail] = {rail.option.network: rail for rail in rails}
        self._store = store
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics
        self._settlement = Settlement(self._rails, store, clock, waiting, metrics)
        self._tasks: dict[str, asyncio.Task[Intent]] = {}

    @property
    def options(self) -> Sequence[PaymentOption]:
        """The ways to pay, in the configured order."""
        return [rail.option for rail in self._rails.values()]

    async def top_up(self, header: str, client: str = "") -> Outcome:
        """Settle a payment and credit its payer. A repeat finds the first result. ``client`` is who sent it.

        Raises PaymentRefused, PaymentInProgress, PaymentOutcomeUnknown, RailUnavailable, RateLimited. Once the
        payment is on its way the work runs to its end, even when this call is cancelled.
        """
        rail: Family | None = None
        try:
            payment = parse_payment_header(header, self.options)
            rail = payment.option.family
            outcome = await self._top_up(payment, client)
        except VectollError as error:
            self._metrics.top_up(rail, outcome_of(error))
            raise
        self._metrics.top_up(rail, TopUpOutcome.CREDITED if outcome.is_new else TopUpOutcome.REPEATED)
        return outcome

    async def _top_up(self, payment: Payment, client: str) -> Outcome:
        earlier = await self._store.get(payment.id)
        if earlier is not None and earlier.state is IntentState.CREDITED:
            return Outcome(original_result(earlier, payment), is_new=False)
        if earlier is not None and not is_open_again(earlier, self._clock.now()):
            raise PaymentInProgress(payment.id)  # whatever is wrong with it by now: it may have moved money
        await self._admit(payment, client)
        intent = await self._claim(payment, earlier)
        task = asyncio.create_task(self._settlement.settle(payment, intent))
        self._tasks[intent.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(intent.id, None))
        task.add_done_callback(_retrieve)
        return Outcome(await asyncio.shield(task), is_new=True)

    async def _admit(self, payment: Payment, client: str) -> None:
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
        await self._count(ATTEMPTS_PER_CLIENT, "top-ups-by", client)

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
            reopened = await self._store.advance(earlier, reopened_as(fresh, earlier))
            if reopened is not None:
                return reopened
        raise PaymentInProgress(payment.id)

    async def reconcile(self, *, may_send: bool = True) -> Sequence[Intent]:
        """Look once at every payment whose outcome is open; those whose state changed, as they are now.

        Only one process may send with a settlement key: any other one looks without ``may_send``.
        """
        changed = []
        found = [intent for intent in await self._store.open() if intent.network in self._rails]
        self._report_open(found)
        for intent in found:
            if intent.id in self._tasks:
                continue
            after = await self._try_to_reconcile(intent, may_send=may_send)
            if (after.state, after.is_final) != (intent.state, intent.is_final):
                changed.append(after)
                self._metrics.reconciled(self._family(after), after.state, after.is_final)
        return changed

    async def _try_to_reconcile(self, intent: Intent, *, may_send: bool) -> Intent:
        """What became of it; unchanged, and logged, when one payment's defect must not end the round of all."""
        try:
            return await self._reconcile(intent, may_send=may_send)
        except (RpcUnavailable, PaymentInProgress, PaymentOutcomeUnknown, Unavailable):
            pass  # no answer now, or another process is at it: the next round looks again
        except PaymentRefused as error:  # the operator's own terms have changed since
            _log.warning("payment_not_watched", extra={"payment": intent.id, "reason": error.reason})
        except Exception as error:  # noqa: BLE001 - logged; the others' money must not wait for it
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            details = {"payment": intent.id, "error": type(error).__qualname__, "frames": frames[-5:]}
            _log.error("payment_look_failed", extra=details)
        return intent

    async def _reconcile(self, intent: Intent, *, may_send: bool) -> Intent:
        rail, now = self._rails[intent.network], self._clock.now()
        payment = parse_payment(intent.payload, [rail.option])
        if intent.state is IntentState.RECEIVED:  # nothing was asked or sent: the client may come again
            if not is_stale(intent, now):
                return intent
            return await self._settlement.move(intent, state=IntentState.FAILED, reason="interrupted")
        after = await self._settlement.look(rail, payment, intent)
        if after is not intent or not may_send:
            return after
        if intent.raw_tx is not None:
            may_happen = await rail.resend(intent)
            if may_happen or intent.state is IntentState.CREDITED or not is_timely(payment, now):
                return intent
        elif not is_abandoned(intent, now):
            return intent
        return await self._settlement.resubmit(rail, payment, intent)

    def _report_open(self, found: Sequence[Intent]) -> None:
        counts = Counter(self._family(intent) for intent in found if intent.state in UNSETTLED)
        for rail in self._rails.values():
            self._metrics.open_payments(rail.option.family, counts[rail.option.family])

    def _family(self, intent: Intent) -> Family:
        return self._rails[intent.network].option.family

    async def watch(self, interval_s: float) -> None:
        """Reconcile now and every ``interval_s`` seconds, until cancelled."""
        rounds = 0
        while True:
            try:
                await self.reconcile()
                if rounds % _ROUNDS_PER_UPKEEP == 0:
                    await self._upkeep()
            except Exception:  # noqa: BLE001 - logged; one round's defect must not end the watch over everybody's money
                _log.exception("reconcile_failed")
            rounds += 1
            await asyncio.sleep(interval_s)

    async def _upkeep(self) -> None:
        await self._store.forget_refused(self._clock.now() - REFUSED_KEPT)
        for rail in self._rails.values():
            try:
                funds = await rail.funds()
            except RpcUnavailable:
                continue
            if funds is not None:
                self._metrics.settlement_funds(rail.option.family, funds)

    async def close(self) -> None:
        """Wait for the settlements in progress; each ends within the waiting time."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _retrieve(task: "asyncio.Task[Intent]") -> None:
    """A settlement that outlives its client must not leave an unretrieved exception behind."""
    if not task.cancelled():
        task.exception()
