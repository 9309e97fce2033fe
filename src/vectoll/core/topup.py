"""Top-ups: from a payment header to credit in the ledger.

::

    received ──► verified ──► submitting ──► credited ──► (final)
       │            │             │  ▲           │
       ▼            ▼             ▼  │           ▼
     failed       failed        unknown       reversed
                                   │             │
                                   ▼             ▼
                            credited, failed   credited with what was taken back

The arrows are ``core.topup_settle``; who follows them once a client has its answer is ``core.topup_watch``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vectoll.core.payment_header import parse_payment_header, render_payment
from vectoll.core.topup_custody import Custody
from vectoll.core.topup_rules import (
    check_times,
    has_failed_after_sending,
    may_be_contract,
    original_result,
    outcome_of,
    reopened_as,
)
from vectoll.core.topup_settle import PATIENT, Settlement, Waiting
from vectoll.core.topup_watch import Watch
from vectoll.domain.errors import VectollError
from vectoll.domain.limits import RateLimit
from vectoll.domain.payments import (
    MAX_TOP_UP,
    MIN_TOP_UP,
    Intent,
    IntentState,
    Payment,
    PaymentInProgress,
    PaymentOption,
    PaymentRefused,
    usdc_amount,
)
from vectoll.domain.wallets import Family
from vectoll.ports.clock import Clock
from vectoll.ports.ledger import Ledger
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics, TopUpOutcome
from vectoll.ports.payments import PaymentStore, Rail

ATTEMPTS_PER_PAYER = RateLimit(10)
"""Top-ups a minute that one wallet may start."""

ATTEMPTS_PER_CLIENT = RateLimit(30)
"""Top-ups a minute that one client may start: a wallet costs nothing, so that limits per wallet alone are none."""

UNPROVED_ATTEMPTS = RateLimit(60)
"""Top-ups a minute, by all together, whose signature only a chain can check: each costs a call to it."""


MAX_SENDERS = 10_000
"""How many payments' senders are remembered; of older ones only their payer learns the balance."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A credited payment, and whether this very call credited it."""

    intent: Intent
    is_new: bool
    is_from_sender: bool
    """Whether the call came from the client that sent it first, as far as this process knows."""


class TopUps:
    """Settles payments and keeps watching those whose outcome is open."""

    def __init__(
        self,
        rails: Sequence[Rail],
        store: PaymentStore,
        ledger: Ledger,
        limiter: RateLimiter,
        clock: Clock,
        waiting: Waiting = PATIENT,
        metrics: PaymentMetrics = NO_PAYMENT_METRICS,
        *,
        is_alone: bool = False,
    ) -> None:
        """``is_alone`` where no other process settles payments of the same ``store``."""
        self._rails: Mapping[str, Rail] = {rail.option.network: rail for rail in rails}
        self._store = store
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics
        self._settlement = Settlement(self._rails, store, ledger, clock, waiting, metrics)
        self._custody = Custody(clock, waiting, is_alone=is_alone)
        self._senders: dict[str, str] = {}
        """By payment, the client that sent it first: who asks again after an answer that was lost."""
        self._watch = Watch(self._rails, store, self._settlement, clock, metrics, self._custody)

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
        if earlier is not None and has_failed_after_sending(earlier, payment):
            await self._count(ATTEMPTS_PER_CLIENT, "top-ups-by", client)
            earlier = await self._settlement.look_again(payment, earlier)
        if earlier is not None and earlier.state is IntentState.CREDITED:
            is_from_sender = self._senders.get(payment.id) == client
            return Outcome(original_result(earlier, payment), is_new=False, is_from_sender=is_from_sender)
        if earlier is not None and earlier.state is IntentState.REVERSED:
            raise PaymentRefused(
                "reversed", "The chain dropped this payment, and its credit was taken back: sign a new one."
            )
        if earlier is not None and not self._is_open_again(earlier):
            raise PaymentInProgress(payment.id)  # whatever is wrong with it by now: it may have moved money
        await self._admit(payment, client)
        if payment.id in self._custody:
            raise PaymentInProgress(payment.id)
        version = 0 if earlier is None else earlier.version + 1
        task = self._custody.take(payment.id, version, self._settle(payment, earlier, client))
        return Outcome(await asyncio.shield(task), is_new=True, is_from_sender=True)

    async def _settle(self, payment: Payment, earlier: Intent | None, client: str) -> Intent:
        intent = await self._claim(payment, earlier)
        self._note_sender(intent, client)
        return await self._settlement.settle(payment, intent)

    def _is_open_again(self, earlier: Intent) -> bool:
        """Whether this payment was never sent, nor is about to be, so that it may be tried from the start."""
        is_unverified = earlier.state is IntentState.RECEIVED
        return earlier.state is IntentState.FAILED or (is_unverified and self._custody.is_nobodys(earlier))

    def _note_sender(self, intent: Intent, client: str) -> None:
        self._senders[intent.id] = client
        if len(self._senders) > MAX_SENDERS:
            self._senders.pop(next(iter(self._senders)))

    async def _admit(self, payment: Payment, client: str) -> None:
        """Everything that can be refused without asking a chain."""
        if not MIN_TOP_UP <= usdc_amount(payment.base_units) <= MAX_TOP_UP:
            raise PaymentRefused("amount_out_of_range", "A top-up is $5 to $10,000.")
        check_times(payment, self._clock.now())
        await self._count(ATTEMPTS_PER_CLIENT, "top-ups-by", client)  # before what all share
        rail = self._rails[payment.option.network]
        if rail.check_signature(payment):
            await self._count(ATTEMPTS_PER_PAYER, "top-ups", payment.payer.text)
        elif may_be_contract(payment):  # unproved: it must not use up the share of the payer it names
            await self._count(UNPROVED_ATTEMPTS, "top-ups-unproved")
        else:
            raise PaymentRefused("invalid_signature", "The payment's signature does not match its payer.")

    async def _count(self, limit: RateLimit, *key: str) -> None:
        decision = await self._limiter.hit(limit, *key)
        decision.check(f"{limit.amount} top-ups per minute")

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
        if earlier is None:
            claimed = fresh if await self._store.insert(fresh) is None else None
        else:
            claimed = await self._store.advance(earlier, reopened_as(fresh, earlier))
        if claimed is None:
            raise PaymentInProgress(payment.id)
        return claimed

    async def reconcile(self, *, may_send: bool = True) -> Sequence[Intent]:
        """Look once at every payment whose outcome is open; those whose state changed, as they are now.

        Only one process may send with a settlement key: any other one looks without ``may_send``.
        """
        return await self._watch.round(may_send=may_send)

    async def watch(self, interval_s: float) -> None:
        """Reconcile now and every ``interval_s`` seconds, until cancelled."""
        await self._watch.run(interval_s)

    async def close(self) -> None:
        """Wait for the settlements in progress; each ends within the waiting time and what the database takes."""
        await self._custody.close()
