"""Rate limits in this process's memory."""

import heapq
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Generic, TypeVar

from vectoll.domain.limits import LimitState, RateLimit, RateLimitDecision, estimated_use, estimated_wait_s

MAX_BUCKETS = 200_000
"""Beyond this the bucket that would expire first is forgotten, so that strangers cannot fill the memory."""

MAX_BLOCKS = 100_000
"""Counted apart from the buckets: a block takes many failures, and requests that cost nothing must not evict it."""

FORGOTTEN_AT_ONCE = 64
"""Most that one new bucket evicts: 0.4 ms. All of a past flood at once would stop everything else for a second."""


class MemoryRateLimiter:
    """A RateLimiter for one process. Call it from one thread: the event loop's.

    Times are of a monotonic clock: the wall clock may be set, which would shut or open everything at once.
    """

    def __init__(
        self,
        max_buckets: int = MAX_BUCKETS,
        max_blocks: int = MAX_BLOCKS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._buckets: _Expiring[_Exact | _Estimated] = _Expiring(max_buckets, lambda bucket: bucket.expires)
        self._blocks: _Expiring[float] = _Expiring(max_blocks, lambda until: until)
        self._shared: dict[_Name, _Exact | _Estimated] = {}
        """Budgets shared by all: as many as the code names, never evicted."""

    async def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RateLimitDecision:
        """Count ``cost`` if it fits; when it does not, count nothing and refuse.

        The state's ``reset_s`` is the wait until the bucket is fresh again, or, when refused, until the same hit
        would fit.
        """
        now, name = self._now(), (limit.amount, limit.window_s, *key)
        bucket = self._buckets.values.get(name)
        if bucket is None:
            bucket = self._shared_or_new(limit, name, key, now)
        used, amount = bucket.used(now), limit.amount
        if used + cost > amount:
            return RateLimitDecision(False, _state(bucket, limit, used, now, cost))
        fresh_s = bucket.add(now, cost)
        return RateLimitDecision(True, LimitState(amount, amount - used - cost, ceil(fresh_s)))

    async def peek(self, limit: RateLimit, *key: str) -> LimitState:
        """Where the bucket stands, counting nothing."""
        name = (limit.amount, limit.window_s, *key)
        bucket = self._buckets.values.get(name) or self._shared.get(name) or _new_bucket(limit)
        now = self._now()
        return _state(bucket, limit, bucket.used(now), now, limit.amount)

    async def block(self, *key: str, duration_s: int) -> None:
        """Shut a bucket for ``duration_s`` seconds from now."""
        now = self._now()
        self._blocks.put(key, now + duration_s, now, duration_s)

    async def blocked_s(self, *key: str) -> int:
        """Whole seconds, rounded up, until the bucket opens again; 0 when it is open."""
        until = self._blocks.values.get(key)
        return 0 if until is None else max(0, ceil(until - self._now()))

    def _shared_or_new(
        self, limit: RateLimit, name: "_Name", key: tuple[str, ...], now: float
    ) -> "_Exact | _Estimated":
        if len(key) == 1:
            return self._shared.setdefault(name, _new_bucket(limit))
        bucket = _new_bucket(limit)
        self._buckets.put(name, bucket, now, limit.window_s)
        return bucket


_Name = tuple[object, ...]
"""A bucket's limit and key, or a block's key."""

V = TypeVar("V")


class _Expiring(Generic[V]):
    """Values that are dropped once they expire, and those first to expire when there are too many."""

    def __init__(self, max_values: int, expires: Callable[[V], float]) -> None:
        self.values: dict[_Name, V] = {}
        self._max_values = max_values
        self._expires = expires
        self._due: list[tuple[float, _Name]] = []
        """A heap: when to check next whether each value has expired."""

    def put(self, name: _Name, value: V, now: float, for_s: float) -> None:
        """Keep a value for at least these seconds, in place of any of the same name."""
        if name not in self.values:
            heapq.heappush(self._due, (now + for_s, name))
        self.values[name] = value
        for _ in range(FORGOTTEN_AT_ONCE):
            is_over = bool(self._due) and self._due[0][0] <= now
            if not is_over and len(self._due) <= self._max_values:
                return
            due, first = heapq.heappop(self._due)
            expires = self._expires(self.values[first])
            if due <= now < expires:
                heapq.heappush(self._due, (expires, first))
            else:
                del self.values[first]


class _Exact:
    """Every hit of the last window: when, and how many."""

    def __init__(self, limit: RateLimit) -> None:
        self._window_s = limit.window_s
        self._hits: deque[tuple[float, int]] = deque()
        self._used = 0

    @property
    def expires(self) -> float:
        """When nothing is left of what was counted."""
        return self._hits[-1][0] + self._window_s if self._hits else 0.0

    def used(self, now: float) -> int:
        """What counts now."""
        hits, oldest = self._hits, now - self._window_s
        while hits and hits[0][0] <= oldest:
            self._used -= hits.popleft()[1]
        return self._used

    def add(self, now: float, cost: int) -> float:
        """Count a hit. Returns how long until nothing is left of what was counted."""
        self._hits.append((now, cost))
        self._used += cost
        return self._window_s

    def wait_s(self, now: float, at_most: int) -> float:
        """How long until ``at_most`` is used, where more is."""
        if at_most == 0:
            return self.expires - now
        left = self._used
        for at, cost in self._hits:
            left -= cost
            if left <= at_most:
                return at + self._window_s - now
        raise AssertionError("all that was counted leaves the window")


class _Estimated:
    """What was counted in this window and in the one before; windows start at multiples of their length."""

    def __init__(self, limit: RateLimit) -> None:
        self._window_s = limit.window_s
        self._index = 0
        self._previous = self._current = 0

    @property
    def expires(self) -> float:
        """When nothing is left of what was counted."""
        return float((self._index + 2) * self._window_s)

    def used(self, now: float) -> int:
        """What counts now, by estimate."""
        index = int(now // self._window_s)
        if index != self._index:
            self._previous = self._current if index == self._index + 1 else 0
            self._index, self._current = index, 0
        return estimated_use(self._window_s, self._left_s(now), self._previous, self._current)

    def add(self, now: float, cost: int) -> float:
        """Count a hit, in the window to which ``used`` has moved. Returns how long until less than one is left."""
        self._current += cost
        return self.wait_s(now, 0) if self._current else 0.0

    def wait_s(self, now: float, at_most: int) -> float:
        """How long until ``at_most`` is used, where more is."""
        return estimated_wait_s(self._window_s, self._left_s(now), self._previous, self._current, at_most)

    def _left_s(self, now: float) -> float:
        return (self._index + 1) * self._window_s - now


def _new_bucket(limit: RateLimit) -> _Exact | _Estimated:
    return _Exact(limit) if limit.is_exact else _Estimated(limit)


def _state(bucket: _Exact | _Estimated, limit: RateLimit, used: int, now: float, cost: int) -> LimitState:
    """The state of a bucket with ``used`` of its limit; ``reset_s`` is the wait until ``cost``, or the limit, fits."""
    at_most = max(0, limit.amount - cost)
    wait_s = bucket.wait_s(now, at_most) if used > at_most else 0.0
    return LimitState(limit.amount, max(0, limit.amount - used), max(0, ceil(wait_s)))
