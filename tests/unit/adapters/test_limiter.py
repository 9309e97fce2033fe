"""MemoryRateLimiter: memory stays bounded."""

import time
from itertools import pairwise

import pytest

from vectoll.adapters.limiter import FORGOTTEN_AT_ONCE, MemoryRateLimiter, _Exact
from vectoll.domain.limits import EXACT_UP_TO, RateLimit

EXACT = RateLimit(100, 60)
ESTIMATED = RateLimit(EXACT_UP_TO + 1, 60)


def remembered(limiter: MemoryRateLimiter) -> int:
    """Everything that the limiter holds on to."""
    buckets, blocks = limiter._buckets, limiter._blocks
    hits = sum(len(bucket._hits) for bucket in buckets.values.values() if isinstance(bucket, _Exact))
    return hits + sum(len(table.values) + len(table._due) for table in (buckets, blocks))


@pytest.mark.parametrize("limit", [EXACT, ESTIMATED], ids=["exact", "estimated"])
async def test_expired_buckets_are_forgotten(limit: RateLimit) -> None:
    now = 1_800_000_000.0
    limiter = MemoryRateLimiter(now=lambda: now)
    for i in range(1000):
        await limiter.hit(limit, "requests", f"stranger {i}")
        await limiter.block("failures", f"stranger {i}", duration_s=30)
        now += 0.01
    assert remembered(limiter) > 1000
    now += 3 * limit.window_s
    left = [remembered(limiter)]
    for n in range(1000 // FORGOTTEN_AT_ONCE + 1):
        now += limit.window_s  # so that the last of these is gone, too
        await limiter.hit(limit, "requests", f"last {n}")
        await limiter.block("failures", f"last {n}", duration_s=30)
        left.append(remembered(limiter))
    assert left[-1] < 20
    of_each = 2 + 2 + (limit is EXACT)  # in both tables, and when to look at it; a hit
    assert max(before - after for before, after in pairwise(left)) <= of_each * FORGOTTEN_AT_ONCE


async def test_busy_bucket_holds_no_more_than_two_windows_of_hits() -> None:
    now = 1_800_000_000.0
    limiter = MemoryRateLimiter(now=lambda: now)
    for _ in range(10_000):
        await limiter.hit(EXACT, "requests", "busy")
        now += 0.5
    assert remembered(limiter) < 2 * EXACT.amount + 10


async def test_more_buckets_than_allowed_push_out_the_first() -> None:
    limiter = MemoryRateLimiter(max_buckets=50)
    for i in range(500):
        await limiter.hit(EXACT, "requests", f"stranger {i}", cost=100)
    assert len(limiter._buckets.values) <= 51
    assert not (await limiter.hit(EXACT, "requests", "stranger 499")).allowed
    assert (await limiter.hit(EXACT, "requests", "stranger 0")).allowed


async def test_block_that_was_prolonged_outlives_its_first_end() -> None:
    now = 1_800_000_000.0
    limiter = MemoryRateLimiter(now=lambda: now)
    await limiter.block("k", duration_s=30)
    now += 20
    await limiter.block("k", duration_s=30)
    now += 20
    await limiter.block("somebody new, who makes it look for what has expired", duration_s=30)
    assert await limiter.blocked_s("k") == 10


async def test_strangers_push_out_no_block_and_no_budget_that_all_share() -> None:
    limiter = MemoryRateLimiter(max_buckets=50)
    assert (await limiter.hit(EXACT, "contract-wallets-in-all", cost=100)).allowed
    await limiter.block("failures", "stranger", duration_s=30)
    for i in range(500):
        await limiter.hit(EXACT, "requests", f"stranger {i}")
    assert not (await limiter.hit(EXACT, "contract-wallets-in-all")).allowed
    assert (await limiter.peek(EXACT, "contract-wallets-in-all")).remaining == 0
    assert await limiter.blocked_s("failures", "stranger") == 30


async def test_blocks_are_bounded_on_their_own() -> None:
    limiter = MemoryRateLimiter(max_blocks=50)
    for i in range(500):
        await limiter.block("failures", f"stranger {i}", duration_s=30)
    assert len(limiter._blocks.values) <= 50
    assert await limiter.blocked_s("failures", "stranger 499") == 30


async def test_a_wall_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = MemoryRateLimiter()
    await limiter.hit(EXACT, "requests", "k", cost=100)
    await limiter.block("failures", "k", duration_s=30)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert (await limiter.hit(EXACT, "requests", "k")).state.reset_s == 60
    assert await limiter.blocked_s("failures", "k") == 30
