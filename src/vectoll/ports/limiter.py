"""Counting what callers use."""

from typing import Protocol

from vectoll.domain.limits import LimitState, RateLimit, RateLimitDecision


class RateLimiter(Protocol):
    """Counters over sliding windows. ``key`` parts name a bucket; memory is bounded by expiry.

    A key of one part is a budget that all share, and is named by the code: callers are a further part.
    """

    async def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RateLimitDecision:
        """Count ``cost`` if it fits; when it does not, count nothing and refuse."""
        ...

    async def peek(self, limit: RateLimit, *key: str) -> LimitState:
        """Where the bucket stands, counting nothing."""
        ...

    async def block(self, *key: str, duration_s: int) -> None:
        """Shut a bucket for ``duration_s`` seconds from now."""
        ...

    async def blocked_s(self, *key: str) -> int:
        """Whole seconds, rounded up, until the bucket opens again; 0 when it is open."""
        ...
