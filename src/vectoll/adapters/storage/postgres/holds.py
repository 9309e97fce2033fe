"""Holds as rows that lapse: what several gateways have set aside, and what this one has to renew."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.postgres.microbatch import MAX_GROUP, MicroBatcher
from vectoll.domain.allowances import day_of
from vectoll.domain.errors import (
    IdempotencyConflict,
    InsufficientBalance,
    OutcomeUnknown,
    PaymentRequired,
    SpendLimitReached,
    Unavailable,
)
from vectoll.domain.ids import RequestId, TransferId
from vectoll.domain.ledger import Hold
from vectoll.domain.money import ZERO, Amount

HOLD_S = 60.0
"""A hold that is not renewed lapses after this."""
RENEW_S = 15.0
"""A request that is in flight for longer has its hold renewed."""

MAX_ORPHANS = 10_000
"""Holds that could not be given back; more are left to lapse."""

HoldKey = tuple[TransferId, RequestId]


@dataclass(frozen=True, slots=True)
class _HoldRequest:
    hold: Hold
    now: datetime


def key_of(hold: Hold) -> HoldKey:
    """What tells one hold from another."""
    return hold.id, hold.request_id


class HoldRows:
    """Takes, renews and releases. For one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._taking: MicroBatcher[_HoldRequest, bool] = MicroBatcher(
            self._take, lambda request: request.hold.id
        )
        self._releasing: MicroBatcher[HoldKey, None] = MicroBatcher(self._release)
        self._active: dict[HoldKey, float] = {}  # when each was last known to be good
        self._orphans: deque[HoldKey] = deque(maxlen=MAX_ORPHANS)  # may be in the database, and nobody's

    async def take(self, hold: Hold, now: datetime) -> bool:
        """Hold the quote. False, and nothing held, where a transfer of this id exists.

        Raises IdempotencyConflict, InsufficientBalance, SpendLimitReached. A cancelled call holds nothing.
        """
        taking = self._taking.submit(_HoldRequest(hold, now))
        try:
            is_held = await asyncio.shield(taking)
        except OutcomeUnknown:
            self._orphans.append(key_of(hold))
            raise
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(self._undo(hold, taking)))
            raise
        if is_held:
            self._active[key_of(hold)] = asyncio.get_running_loop().time()
        return is_held

    def claim(self, hold: Hold) -> bool:
        """Deactivate a hold, which its charge then frees. Whether it was active here."""
        return self._active.pop(key_of(hold), None) is not None

    async def release(self, hold: Hold) -> None:
        """Give back a hold that is active here, as soon as the database can be reached."""
        if self.claim(hold):
            await self.forget(key_of(hold))

    async def forget(self, key: HoldKey) -> None:
        """Delete a hold, whoever took it; where that is not possible now, with the next ``renew``."""
        try:
            await self._releasing.submit(key)
        except Unavailable:
            self._orphans.append(key)

    async def renew(self) -> None:
        """Keep what has been held for a while from lapsing, then delete what could not be deleted before."""
        now = asyncio.get_running_loop().time()
        keys = [key for key, good_at in self._active.items() if now - good_at > RENEW_S]
        if keys:
            await self._database.fetch("renew_holds", *map(list, zip(*keys, strict=True)), HOLD_S)
            self._active.update((key, now) for key in keys if key in self._active)
        while self._orphans:
            lost = [self._orphans.popleft() for _ in range(min(MAX_GROUP, len(self._orphans)))]
            try:
                await self._release(lost)
            except BaseException:
                self._orphans.extend(lost)
                raise

    async def close(self) -> None:
        """Finish what was asked for."""
        await self._taking.close()
        await self._releasing.close()

    async def _undo(self, hold: Hold, taking: "asyncio.Future[bool]") -> None:
        await asyncio.wait([taking])
        if not taking.cancelled() and not taking.exception() and taking.result():
            await self.forget(key_of(hold))

    async def _release(self, keys: Sequence[HoldKey]) -> Sequence[None]:
        await self._database.fetch("release_holds", *map(list, zip(*keys, strict=True)))
        return [None] * len(keys)

    async def _take(self, requests: Sequence[_HoldRequest]) -> Sequence[bool | Exception]:
        columns = zip(*(_columns(request) for request in requests), strict=True)
        today = day_of(requests[0].now)
        rows = await self._database.fetch("take_holds", *map(list, columns), today, HOLD_S)
        outcomes: list[bool | Exception] = [False] * len(requests)
        for number, outcome, *facts in rows:
            outcomes[number - 1] = _outcome(requests[number - 1].hold, outcome, *facts)
        return outcomes


def _columns(request: _HoldRequest) -> tuple[object, ...]:
    hold = request.hold
    mine: tuple[object, ...] = (
        hold.id,
        hold.request_id,
        hold.principal.account,
        hold.quote.amount,
        hold.fingerprint,
    )
    return mine + limit_columns(hold, request.now)


def limit_columns(hold: Hold, now: datetime) -> tuple[object, ...]:
    """The key, its limit, and the kind and start of the period that holds ``now``; all None without a limit."""
    limited = rules.limited_key(hold)
    if limited is None:
        return None, None, None, None
    key, limit = limited
    period, start = rules.period_of(limit, now)
    return key, limit.amount, period.value, start


def _outcome(hold: Hold, outcome: str, available: int | None, spent: int | None) -> bool | Exception:
    """What one row of ``-- name: take_holds`` means."""
    match outcome:
        case "held":
            return True
        case "charged":
            return False
        case "conflict":
            return IdempotencyConflict()
        case _:
            return refusal(hold, hold.quote.amount, outcome, available, spent)


def refusal(
    hold: Hold, amount: Amount, outcome: str, available: int | None, spent: int | None
) -> PaymentRequired:
    """Why ``amount`` cannot be taken: ``balance`` and what is available, or ``limit`` and what the key has spent."""
    if outcome == "balance":
        return InsufficientBalance(amount, Amount(max(ZERO, int(available or 0))))
    assert outcome == "limit"
    assert hold.principal.limit is not None
    return SpendLimitReached(hold.principal.limit.amount, Amount(int(spent or 0)))
