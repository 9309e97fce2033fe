"""Rate limits in this process's memory, over the ``limits`` library.

A limit of up to ``EXACT_UP_TO`` is an exact moving window, which remembers every hit. A larger one, such as tokens
per minute, is a sliding-window counter: two counters per bucket, and an estimate that assumes the previous
window's hits were spread evenly.
"""

import heapq
import time
from math import ceil, floor
from threading import Timer

from limits.storage import MemoryStorage

from vectoll.domain.limits import LimitState, RateLimit, RateLimitDecision

EXACT_UP_TO = 10_000
"""Hits that one bucket may remember: some 100 bytes each."""

MAX_BUCKETS = 200_000
"""Beyond this the bucket that would expire first is forgotten, so that strangers cannot fill the memory."""


class MemoryRateLimiter:
    """A RateLimiter for one process. Call it from one thread: the event loop's."""

    def __init__(self, max_buckets: int = MAX_BUCKETS) -> None:
        self._memory = _Memory(max_buckets)

    async def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RateLimitDecision:
        """Count ``cost`` if it fits; when it does not, count nothing and refuse.

        The state's ``reset_s`` is the wait until the bucket is fresh again, or, when refused, until the same hit
        would fit.
        """
        name = _name(limit, key)
        self._memory.sweep()
        if limit.amount <= EXACT_UP_TO:
            allowed = self._memory.acquire_entry(name, limit.amount, limit.window_s, cost)
        else:
            allowed = self._memory.acquire_sliding_window_entry(name, limit.amount, limit.window_s, cost)
        return RateLimitDecision(allowed, self._memory.state(name, limit, limit.amount if allowed else cost))

    async def peek(self, limit: RateLimit, *key: str) -> LimitState:
        """Where the bucket stands, counting nothing."""
        return self._memory.state(_name(limit, key), limit, limit.amount)

    async def block(self, *key: str, duration_s: int) -> None:
        """Shut a bucket for ``duration_s`` seconds from now."""
        name = _blocked(key)
        self._memory.clear(name)
        self._memory.incr(name, duration_s)

    async def blocked_s(self, *key: str) -> int:
        """Whole seconds, rounded up, until the bucket opens again; 0 when it is open."""
        name = _blocked(key)
        if not self._memory.get(name):
            return 0
        return max(0, ceil(self._memory.get_expiry(name) - time.time()))


def _name(limit: RateLimit, key: tuple[str, ...]) -> str:
    """No part of a key holds a NUL, which HTTP headers cannot carry, so no two buckets share a name."""
    return f"{limit.amount}/{limit.window_s}/" + "\0".join(key)


def _blocked(key: tuple[str, ...]) -> str:
    return "blocked/" + "\0".join(key)


class _NeverStarted(Timer):
    """Stands where MemoryStorage keeps its clean-up thread, and says that it runs, so that none is started.

    That thread would look through every bucket a hundred times a second under load, and it never forgets the name
    of a bucket that is empty. ``_Memory.sweep`` does the work instead, a bucket at a time, when its time has come.
    """

    def __init__(self) -> None:
        super().__init__(0, lambda: None)

    def start(self) -> None:
        """Nothing to start."""

    def is_alive(self) -> bool:
        """As if it ran."""
        return True


class _Memory(MemoryStorage):
    """The library's storage, with a clean-up whose cost is shared out over the hits."""

    def __init__(self, max_buckets: int) -> None:
        super().__init__()
        self.timer.cancel()
        self.timer = _NeverStarted()
        self._max_buckets = max_buckets
        self._due: list[tuple[float, str]] = []  # a heap: when to look at each bucket next

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """As the library's; a bucket that is new is noted for the sweep."""
        if key not in self.events:
            heapq.heappush(self._due, (time.time() + expiry, key))
        return super().acquire_entry(key, limit, expiry, amount)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """As the library's; a bucket that is new is noted for the sweep."""
        if key not in self.expirations:
            heapq.heappush(self._due, (time.time() + expiry, key))
        return super().incr(key, expiry, amount)

    def sweep(self) -> None:
        """Forget what has expired, and the next to expire while there are too many."""
        now = time.time()
        while self._due and (self._due[0][0] <= now or len(self._due) > self._max_buckets):
            is_full = len(self._due) > self._max_buckets
            _, key = heapq.heappop(self._due)
            next_look = None if is_full else self._trim(key, now)
            if next_look is None:
                self.clear(key)
            else:
                heapq.heappush(self._due, (next_look, key))

    def _trim(self, key: str, now: float) -> float | None:
        """Drop a bucket's expired hits. Returns when to look again, or None when nothing is left."""
        if key not in self.events:
            expiry = self.expirations.get(key, now)
            return expiry if expiry > now else None
        live = [entry for entry in self.events[key] if entry.expiry > now]
        self.events[key] = live
        return live[0].expiry if live else None

    def state(self, name: str, limit: RateLimit, cost: int) -> LimitState:
        """Where a bucket stands; ``reset_s`` is the wait until ``cost`` fits (at most the limit does)."""
        of_kind = self._exact_state if limit.amount <= EXACT_UP_TO else self._estimated_state
        used, wait_s = of_kind(name, limit, min(cost, limit.amount))
        return LimitState(limit.amount, max(0, limit.amount - used), max(0, ceil(wait_s)))

    def _exact_state(self, name: str, limit: RateLimit, cost: int) -> tuple[int, float]:
        _, used = self.get_moving_window(name, limit.amount, limit.window_s)
        excess = used + cost - limit.amount
        if excess <= 0:
            return used, 0.0
        freeing = self.events[name][used - excess]  # newest first: the hit whose leaving makes room
        return used, freeing.atime + limit.window_s - time.time()

    def _estimated_state(self, name: str, limit: RateLimit, cost: int) -> tuple[int, float]:
        window = limit.window_s
        previous, previous_ttl, current, current_ttl = self.get_sliding_window(name, window)
        room = limit.amount - cost + 1  # what the estimate must stay below, as it is rounded down
        estimate = previous * previous_ttl / window + current
        if estimate < room:
            return floor(estimate), 0.0
        if current < room:  # it is enough that the previous window slides out further
            return floor(estimate), previous_ttl - (room - current) * window / previous
        to_rollover = current_ttl - window
        return floor(estimate), to_rollover + window - room * window / current
