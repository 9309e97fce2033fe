"""The watch over payments whose outcome is open: one round after the other, whatever a round meets."""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import timedelta

from vectoll.core.payment_header import parse_payment
from vectoll.core.topup_rules import is_abandoned, is_stale, is_timely
from vectoll.core.topup_settle import Settlement
from vectoll.domain.errors import Unavailable
from vectoll.domain.payments import (
    UNSETTLED,
    Intent,
    IntentState,
    Never,
    Payment,
    PaymentId,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
)
from vectoll.domain.wallets import Family
from vectoll.ports.clock import Clock
from vectoll.ports.payment_metrics import PaymentMetrics
from vectoll.ports.payments import PaymentStore, Rail
from vectoll.ports.wallets import RpcUnavailable

_log = logging.getLogger(__name__)

REFUSED_KEPT = timedelta(days=1)
"""How long a payment that was refused before it was sent is remembered: strangers make as many as they like."""

ABSENCES_TO_FAIL = 2
ABSENCES_TO_REVERSE = 5
"""In how many rounds in a row a chain must lack a payment, by blocks in which it can come no more, before it is
believed: a node that was restored from a snapshot has holes, and what is taken back may have been spent."""

_ROUNDS_PER_UPKEEP = 20
"""Every so many rounds of the watch, what is less urgent: old refusals, and the settlement keys' funds."""


class Watch:
    """Looks at what is open. ``rails`` by CAIP-2 id; ``busy`` are the payments that this process is settling now."""

    def __init__(
        self,
        rails: Mapping[str, Rail],
        store: PaymentStore,
        settlement: Settlement,
        clock: Clock,
        metrics: PaymentMetrics,
        busy: Container[str],
    ) -> None:
        self._rails = rails
        self._store = store
        self._settlement = settlement
        self._clock = clock
        self._metrics = metrics
        self._busy = busy
        self._absences: Counter[PaymentId] = Counter()

    async def run(self, interval_s: float) -> None:
        """A round now and every ``interval_s`` seconds, until cancelled."""
        rounds = 0
        while True:
            try:
                await self.round()
                if rounds % _ROUNDS_PER_UPKEEP == 0:
                    await self._upkeep()
            except Exception:  # noqa: BLE001 - logged; one round's defect must not end the watch over everybody's money
                _log.exception("reconcile_failed")
            rounds += 1
            await asyncio.sleep(interval_s)

    async def round(self, *, may_send: bool = True) -> Sequence[Intent]:
        """Look once at every payment whose outcome is open; those whose state changed, as they are now."""
        changed = []
        found = [intent for intent in await self._store.open() if intent.network in self._rails]
        self._report_open(found)
        self._absences = Counter({i.id: self._absences[i.id] for i in found if i.id in self._absences})
        for intent in found:
            if intent.id in self._busy:
                continue
            after = await self._try(intent, may_send=may_send)
            if (after.state, after.is_final) != (intent.state, intent.is_final):
                changed.append(after)
                self._metrics.reconciled(self._family(after), after.state, after.is_final)
        return changed

    async def _try(self, intent: Intent, *, may_send: bool) -> Intent:
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
        after = await self._look(rail, payment, intent)
        if after is not intent or not may_send:
            return after
        if intent.raw_tx is not None:
            may_happen = await rail.resend(intent)
            if may_happen or intent.state is IntentState.CREDITED or not is_timely(payment, now):
                return intent
        elif not is_abandoned(intent, now):
            return intent
        return await self._settlement.resubmit(rail, payment, intent)

    async def _look(self, rail: Rail, payment: Payment, intent: Intent) -> Intent:
        """Ask the chain once and draw the conclusion; from absence only when it was there several times in a row."""
        sighting = await rail.look(payment, intent)
        if isinstance(sighting, Never) and sighting.by_absence:
            self._absences[intent.id] += 1
            is_credited = intent.state is IntentState.CREDITED
            if self._absences[intent.id] < (ABSENCES_TO_REVERSE if is_credited else ABSENCES_TO_FAIL):
                return intent
        else:
            self._absences.pop(intent.id, None)
        return await self._settlement.conclude(rail, intent, sighting)

    def _report_open(self, found: Sequence[Intent]) -> None:
        counts = Counter(self._family(intent) for intent in found if intent.state in UNSETTLED)
        for rail in self._rails.values():
            self._metrics.open_payments(rail.option.family, counts[rail.option.family])

    def _family(self, intent: Intent) -> Family:
        return self._rails[intent.network].option.family

    async def _upkeep(self) -> None:
        await self._store.forget_refused(self._clock.now() - REFUSED_KEPT)
        for rail in self._rails.values():
            try:
                funds = await rail.funds()
            except RpcUnavailable:
                continue
            if funds is not None:
                self._metrics.settlement_funds(rail.option.family, funds)
