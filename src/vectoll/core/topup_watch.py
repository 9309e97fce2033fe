"""The watch over payments whose outcome is open: one round after the other, whatever a round meets."""

import asyncio
import logging
import traceback
from collections import Counter, deque
from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain

from vectoll.core.payment_header import stored_payment
from vectoll.core.topup_custody import Custody
from vectoll.core.topup_rules import is_on_terms, is_timely
from vectoll.core.topup_settle import Settlement
from vectoll.domain.errors import Unavailable
from vectoll.domain.payments import (
    PENDING,
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
from vectoll.ports.wallets import RpcSilent, RpcUnavailable

_log = logging.getLogger(__name__)

REFUSED_KEPT = timedelta(days=1)
"""How long a payment that was refused before it was sent is remembered: strangers make as many as they like."""

FAILED_KEPT = timedelta(days=30)
"""How long one is that failed after it was sent: for questions, for it can move no money any more."""

ABSENCES_TO_FAIL = 2
ABSENCES_TO_REVERSE = 5
"""In how many rounds in a row a chain must lack a payment, by blocks in which it can come no more, before it is
believed: a node that was restored from a snapshot has holes, and what is taken back may have been spent."""

LOOKS_AT_ONCE = 8
"""How many payments of one rail are looked at at a time."""

_EAGER = timedelta(minutes=5)
"""So long a payment is looked at in every round, then after another tenth of its age."""
_LONGEST_PAUSE = timedelta(hours=1)
_ALARMING = timedelta(hours=1)
"""Long after every payment has lapsed: what is not known now the RPC endpoint cannot say."""
_AFTER_SILENCE = timedelta(minutes=1)

REVERSED_WATCHED = timedelta(days=30)
"""So long after its credit was taken back a payment is looked for: a node that was wrong may have been replaced."""

_ROUNDS_PER_UPKEEP = 20
"""Every so many rounds of the watch, what is less urgent: reversals, old refusals, the settlement keys' funds."""


class Watch:
    """Looks at what is open. ``rails`` by CAIP-2 id."""

    def __init__(
        self,
        rails: Mapping[str, Rail],
        store: PaymentStore,
        settlement: Settlement,
        clock: Clock,
        metrics: PaymentMetrics,
        custody: Custody,
    ) -> None:
        self._rails = rails
        self._store = store
        self._settlement = settlement
        self._clock = clock
        self._metrics = metrics
        self._custody = custody
        self._absences: Counter[PaymentId] = Counter()
        self._due: dict[PaymentId, datetime] = {}

    async def run(self, interval_s: float) -> None:
        """A round now and every ``interval_s`` seconds, until cancelled."""
        rounds = 0
        while True:
            try:
                is_time = rounds % _ROUNDS_PER_UPKEEP == 0
                await self.round(is_thorough=is_time)
                if is_time:
                    await self._upkeep()
            except Exception:  # noqa: BLE001 - logged; one round's defect must not end the watch over everybody's money
                _log.exception("reconcile_failed")
            rounds += 1
            await asyncio.sleep(interval_s)

    async def round(self, *, may_send: bool = True, is_thorough: bool = True) -> Sequence[Intent]:
        """Look once at every open payment that is due; those whose state changed, as they are now.

        A thorough round looks at those whose credit was taken back, too: a chain may show them after all.
        """
        since = self._clock.now() - REVERSED_WATCHED
        reversed_ = await self._store.reversed_since(since) if is_thorough else ()
        found = [i for i in (*await self._store.open(), *reversed_) if i.network in self._rails]
        self._report_open(found)
        self._forget_all_but({intent.id for intent in found})
        due = [i for i in found if i.id not in self._custody and self._is_due(i)]
        shares = [deque(i for i in due if i.network == network) for network in self._rails]
        changed = await asyncio.gather(*(self._share(share, may_send=may_send) for share in shares))
        return list(chain.from_iterable(changed))

    async def _share(self, share: deque[Intent], *, may_send: bool) -> Sequence[Intent]:
        """One rail's, a few at a time; those that changed. Once its chain is silent the rest has to wait."""
        changed = []

        async def work() -> None:
            while share:
                intent = share.popleft()
                after = await self._try(intent, may_send=may_send)
                self._report_old(after or intent)
                if after is None:
                    share.clear()
                elif (after.state, after.is_final) != (intent.state, intent.is_final):
                    changed.append(after)
                    self._metrics.reconciled(self._family(after), after.state, after.is_final)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(LOOKS_AT_ONCE, len(share))):
                group.create_task(work())
        return changed

    def _is_due(self, intent: Intent) -> bool:
        """Also where the clock was ahead when it was put off."""
        due, now = self._due.get(intent.id), self._clock.now()
        return due is None or not now < due <= now + _LONGEST_PAUSE

    def _put_off(self, intent: Intent, at_least: timedelta = timedelta()) -> None:
        """When to look again: the longer it has been open, the later."""
        now = self._clock.now()
        age = now - intent.created_at
        pause = min(age / 10, _LONGEST_PAUSE) if age > _EAGER else timedelta()
        self._due[intent.id] = now + max(pause, at_least)

    def _forget_all_but(self, found: Container[PaymentId]) -> None:
        self._custody.forget_all_but(found)
        self._due = {payment: due for payment, due in self._due.items() if payment in found}
        self._absences = Counter({payment: n for payment, n in self._absences.items() if payment in found})

    async def _try(self, intent: Intent, *, may_send: bool) -> Intent | None:
        """What became of it; None when its chain is silent. One payment's defect must not end the round of all."""
        self._put_off(intent)
        try:
            return await self._reconcile(intent, may_send=may_send)
        except RpcSilent:
            self._put_off(intent, at_least=_AFTER_SILENCE)  # so that it is not what ends the next round, too
            return None
        except (RpcUnavailable, PaymentInProgress, PaymentOutcomeUnknown, Unavailable):
            pass  # no answer now, or another process is at it: the next round looks again
        except PaymentRefused as error:  # the operator asks for another asset since
            _log.warning("payment_not_watched", extra={"payment": intent.id, "reason": error.reason})
        except Exception as error:  # noqa: BLE001 - logged; the others' money must not wait for it
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            details = {"payment": intent.id, "error": type(error).__qualname__, "frames": frames[-5:]}
            _log.error("payment_look_failed", extra=details)
        return intent

    async def _reconcile(self, intent: Intent, *, may_send: bool) -> Intent:
        if intent.state is IntentState.RECEIVED:  # nothing was asked or sent: the client may come again
            if not self._custody.is_nobodys(intent):
                return intent
            return await self._settlement.move(intent, state=IntentState.FAILED, reason="interrupted")
        rail, now = self._rails[intent.network], self._clock.now()
        payment = stored_payment(intent.payload, rail.option)
        after = await self._look(rail, payment, intent)
        if after is not intent or not may_send or intent.state is IntentState.REVERSED:
            return after
        if intent.raw_tx is not None:
            may_happen = await rail.resend(intent)
            if may_happen or not is_timely(payment, now):
                return intent
        elif not self._custody.is_nobodys(intent):
            return intent
        if not is_on_terms(payment):
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

    def _report_old(self, intent: Intent) -> None:
        age = self._clock.now() - intent.created_at
        if intent.state in PENDING and age > _ALARMING:
            details = {"payment": intent.id, "network": intent.network, "age_s": int(age.total_seconds())}
            _log.error("payment_outcome_unknown", extra=details | {"reason": intent.reason})

    def _family(self, intent: Intent) -> Family:
        return self._rails[intent.network].option.family

    async def _upkeep(self) -> None:
        now = self._clock.now()
        await self._store.forget_failed(now - REFUSED_KEPT, now - FAILED_KEPT)
        for rail in self._rails.values():
            try:
                funds = await rail.funds()
            except RpcUnavailable:
                continue
            if funds is not None:
                self._metrics.settlement_funds(rail.option.family, funds)
