"""Rate limits in PostgreSQL: one count for all gateways, by the database's own clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.postgres.microbatch import MicroBatcher
from vectoll.domain.limits import LimitState, RateLimit, RateLimitDecision, estimated_use, estimated_wait_s
from vectoll.ports.clock import Clock


@dataclass(frozen=True, slots=True)
class _Question:
    """One row of the parameters of ``-- name: limits``."""

    kind: str
    bucket: str
    amount: int = 0
    window_s: float = 1.0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    """One row of its result."""

    allowed: bool
    used: int
    previous: int
    wait_s: float
    now_s: float


class PostgresRateLimiter:
    """See ``vectoll.ports.limiter.RateLimiter``. Questions that come together are asked in one statement.

    ``clock`` is for tests; without it the database's clock counts, so that gateways need not agree on the time.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock
        self._batcher: MicroBatcher[_Question, _Answer] = MicroBatcher(self._ask)

    async def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RateLimitDecision:
        """Count ``cost`` if it fits; when it does not, count nothing and refuse.

        The state's ``reset_s`` is the wait until the bucket is fresh again, or, when refused, until the same hit
        would fit.
        """
        answer = await self._batcher.submit(_question(limit, key, cost))
        state = _state(limit, answer, limit.amount if answer.allowed else min(cost, limit.amount))
        return RateLimitDecision(answer.allowed, state)

    async def peek(self, limit: RateLimit, *key: str) -> LimitState:
        """Where the bucket stands, counting nothing."""
        return _state(limit, await self._batcher.submit(_question(limit, key, 0)), limit.amount)

    async def block(self, *key: str, duration_s: int) -> None:
        """Shut a bucket for ``duration_s`` seconds from now."""
        await self._batcher.submit(_Question("block", _name(key), cost=duration_s))

    async def blocked_s(self, *key: str) -> int:
        """Whole seconds, rounded up, until the bucket opens again; 0 when it is open."""
        return ceil((await self._batcher.submit(_Question("blocked", _name(key)))).wait_s)

    async def close(self) -> None:
        """Answer what was asked."""
        await self._batcher.close()

    async def _ask(self, questions: Sequence[_Question]) -> Sequence[_Answer]:
        now_s = None if self._clock is None else self._clock.now().timestamp()
        columns = zip(*((q.kind, q.bucket, q.amount, q.window_s, q.cost) for q in questions), strict=True)
        rows = await self._database.fetch("limits", *map(list, columns), now_s)
        answers = {number: _Answer(*facts) for number, *facts in rows}
        return [answers[number] for number in range(1, len(questions) + 1)]


def _question(limit: RateLimit, key: tuple[str, ...], cost: int) -> _Question:
    kind = "window" if limit.is_exact else "counter"
    bucket = f"{limit.amount}/{limit.window_s}/{_name(key)}"
    return _Question(kind, bucket, limit.amount, limit.window_s, cost)


def _name(key: tuple[str, ...]) -> str:
    """No part of a key holds a line break, which HTTP headers cannot carry, so no two buckets share a name."""
    return "\n".join(key)


def _state(limit: RateLimit, answer: _Answer, cost: int) -> LimitState:
    """Where a bucket stands; ``reset_s`` is the wait until ``cost`` fits."""
    used, wait_s = answer.used, answer.wait_s
    if not limit.is_exact:
        left_s = limit.window_s - answer.now_s % limit.window_s
        window = limit.window_s, left_s, answer.previous, answer.used
        used, at_most = estimated_use(*window), limit.amount - cost
        wait_s = estimated_wait_s(*window, at_most) if used > at_most else 0.0
    return LimitState(limit.amount, max(0, limit.amount - used), max(0, ceil(wait_s)))
