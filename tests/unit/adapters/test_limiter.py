"""MemoryRateLimiter: memory stays bounded."""

import time

import pytest

from vectoll.adapters.limiter import EXACT_UP_TO, MemoryRateLimiter, _Exact
from vectoll.domain.limits import RateLimit

EXACT = RateLimit(100, 60)
ESTIMATED = RateLimit(EXACT_UP_TO + 1, 60)


def remembered(limiter: MemoryRateLimiter) -> int:
    """Everything that the limiter holds on to."""
    hits = sum(len(bucket._hits) for bucket in limiter._buckets.values() if isinstance(bucket, _Exact))
    return hits + len(limiter._buckets) + len(limiter._blocked) + len(limiter._due)


@pytest.mark.parametrize("limit", [EXACT, ESTIMATED], ids=["exact", "estimated"])
async def test_expired_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch, limit: RateLimit) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limiter = MemoryRateLimiter()
    for i in range(1000):
        await limiter.hit(limit, f"stranger {i}")
        await limiter.block(f"stranger {i}", duration_s=30)
        now += 0.01
    assert remembered(limiter) > 1000
    now += 3 * limit.window_s
    await limiter.hit(limit, "last")
    assert remembered(limiter) < 10


async def test_busy_bucket_holds_no_more_than_two_windows_of_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limiter = MemoryRateLimiter()
    for _ in range(10_000):
        await limiter.hit(EXACT, "busy")
        now += 0.5
    assert remembered(limiter) < 2 * EXACT.amount + 10


async def test_more_buckets_than_allowed_push_out_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = MemoryRateLimiter(max_buckets=50)
    for i in range(500):
        await limiter.hit(EXACT, f"stranger {i}", cost=100)
    assert len(limiter._buckets) <= 51
    assert not (await limiter.hit(EXACT, "stranger 499")).allowed
    assert (await limiter.hit(EXACT, "stranger 0")).allowed


async def test_block_that_was_prolonged_outlives_its_first_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limiter = MemoryRateLimiter()
    await limiter.block("k", duration_s=30)
    now += 20
    await limiter.block("k", duration_s=30)
    now += 20
    await limiter.hit(EXACT, "somebody new, who makes it look for what has expired")
    assert await limiter.blocked_s("k") == 10
