"""What every RateLimiter does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.postgres import POOL, emptied, execute

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.postgres.database import connect
from vectoll.adapters.storage.postgres.limiter import PostgresRateLimiter
from vectoll.domain.limits import EXACT_UP_TO, RateLimit
from vectoll.ports.limiter import RateLimiter

START = 1_800_000_000.0  # a multiple of 60: sliding-window counters start fresh here
SMALL = RateLimit(5, 60)
LARGE = RateLimit(10 * EXACT_UP_TO, 60)
EITHER = pytest.mark.parametrize("limit", [SMALL, LARGE], ids=["exact", "estimated"])


class Wall:
    """The wall clock, owned by the test."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@dataclass
class WallClock:
    """The same wall as a Clock."""

    wall: Wall

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall.now, UTC)


@pytest.fixture(params=["memory", "postgres"])
async def limiter(request: pytest.FixtureRequest, wall: Wall) -> AsyncIterator[RateLimiter]:
    if request.param == "memory":
        yield MemoryRateLimiter(now=wall)
        return
    url = request.getfixturevalue("database_url")
    database = await connect(await emptied(url), POOL)
    yield PostgresRateLimiter(database, WallClock(wall))
    await database.close()


@EITHER
async def test_a_database_whose_clock_is_set_back_counts_afresh(
    database_url: str, limit: RateLimit, wall: Wall
) -> None:
    """In memory it is not the wall's clock that counts."""
    database = await connect(await emptied(database_url), POOL)
    limiter = PostgresRateLimiter(database, WallClock(wall))
    for _ in range(2):
        assert (await limiter.hit(limit, "k", cost=limit.amount)).allowed
        assert not (await limiter.hit(limit, "k")).allowed
        wall.now -= 3600
    wall.now += 7200 - 3 * limit.window_s  # and forward again: what was written in between is long over
    assert (await limiter.hit(limit, "k", cost=limit.amount)).allowed
    await database.close()


async def test_a_database_whose_clock_is_set_back_forgets_who_was_blocked(database_url: str) -> None:
    """At the next sweep. Another who was blocked since then stays so."""
    database = await connect(await emptied(database_url), POOL)
    limiter = PostgresRateLimiter(database)
    await limiter.block("before", duration_s=30)
    await execute(
        database_url,
        "UPDATE vectoll.limit_blocks SET blocked_at = blocked_at + 3600, expires_at = expires_at + 3600",
    )
    await limiter.block("since", duration_s=30)
    await database.fetch("sweep_limits")
    assert await limiter.blocked_s("before") == 0
    assert 0 < await limiter.blocked_s("since") <= 30
    await database.close()


@EITHER
async def test_a_hit_says_what_a_look_right_after_it_says(
    limiter: RateLimiter, limit: RateLimit, wall: Wall
) -> None:
    for pause_s, cost in ((0, 1), (0.5, 2), (30, 1), (45, 3), (61, 1), (200, 5)):
        wall.now += pause_s
        decision = await limiter.hit(limit, "k", cost=cost)
        assert decision.state == await limiter.peek(limit, "k")


@EITHER
async def test_hits_are_allowed_up_to_the_limit_and_then_refused(
    limiter: RateLimiter, limit: RateLimit
) -> None:
    whole = await limiter.hit(limit, "k", cost=limit.amount)
    more = await limiter.hit(limit, "k")
    assert whole.allowed
    assert whole.state.remaining == 0
    assert not more.allowed
    assert more.state.limit == limit.amount


@EITHER
async def test_refused_hit_counts_nothing(limiter: RateLimiter, limit: RateLimit) -> None:
    await limiter.hit(limit, "k", cost=limit.amount - 2)
    assert not (await limiter.hit(limit, "k", cost=3)).allowed
    assert (await limiter.hit(limit, "k", cost=2)).allowed


@EITHER
async def test_cost_above_the_limit_is_always_refused(limiter: RateLimiter, limit: RateLimit) -> None:
    decision = await limiter.hit(limit, "k", cost=limit.amount + 1)
    assert not decision.allowed
    assert decision.state.remaining == limit.amount


@EITHER
async def test_peek_counts_nothing(limiter: RateLimiter, limit: RateLimit) -> None:
    await limiter.hit(limit, "k", cost=2)
    states = [await limiter.peek(limit, "k") for _ in range(3)]
    assert {state.remaining for state in states} == {limit.amount - 2}


async def test_peek_of_an_unknown_bucket_is_fresh(limiter: RateLimiter) -> None:
    state = await limiter.peek(SMALL, "never seen")
    assert (state.limit, state.remaining, state.reset_s) == (5, 5, 0)


async def test_buckets_are_told_apart_by_every_part_of_the_key(limiter: RateLimiter) -> None:
    for key in (("a", "b"), ("a/b",), ("a", "c"), ("b", "a"), ("a",), ("ab",), ("a/b", "")):
        assert (await limiter.hit(SMALL, *key, cost=5)).allowed, key


async def test_moving_window_frees_each_hit_when_it_leaves_the_window(
    limiter: RateLimiter, wall: Wall
) -> None:
    for _ in range(5):
        assert (await limiter.hit(SMALL, "k")).allowed
        wall.now += 10
    assert not (await limiter.hit(SMALL, "k")).allowed  # at 50 s; the first hit leaves at 60 s
    wall.now = START + 60.5
    assert (await limiter.hit(SMALL, "k")).allowed
    assert not (await limiter.hit(SMALL, "k")).allowed


async def test_estimated_window_slides(limiter: RateLimiter, wall: Wall) -> None:
    await limiter.hit(LARGE, "k", cost=LARGE.amount)
    wall.now = START + 60 + 30  # half of the previous minute still counts
    state = await limiter.peek(LARGE, "k")
    assert state.remaining == LARGE.amount // 2
    assert not (await limiter.hit(LARGE, "k", cost=LARGE.amount // 2 + 1)).allowed
    assert (await limiter.hit(LARGE, "k", cost=LARGE.amount // 2)).allowed


async def test_estimate_knows_nothing_of_windows_before_the_previous(
    limiter: RateLimiter, wall: Wall
) -> None:
    await limiter.hit(LARGE, "k", cost=LARGE.amount)
    wall.now = START + 2 * 60 + 1
    assert (await limiter.hit(LARGE, "k", cost=LARGE.amount)).allowed


@EITHER
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("second_at_s", [0, 25, 61, 110])
async def test_refused_caller_who_waits_as_told_is_allowed_and_sooner_is_not(
    limiter: RateLimiter, wall: Wall, limit: RateLimit, share: float, second_at_s: int
) -> None:
    cost = int(limit.amount * share)
    await limiter.hit(limit, "k", cost=limit.amount)
    wall.now = START + second_at_s
    refused = await limiter.hit(limit, "k", cost=cost)
    while refused.allowed:  # at 61 s or later some of it fits again: use that up too
        refused = await limiter.hit(limit, "k", cost=cost)
    wall.now += refused.state.reset_s - 1.001
    assert not (await limiter.hit(limit, "k", cost=cost)).allowed
    wall.now += 1.002
    assert (await limiter.hit(limit, "k", cost=cost)).allowed


async def test_refused_caller_waits_for_as_many_hits_as_the_cost_needs(
    limiter: RateLimiter, wall: Wall
) -> None:
    for _ in range(5):
        await limiter.hit(SMALL, "k")
        wall.now += 10
    waits_s = [(await limiter.hit(SMALL, "k", cost=cost)).state.reset_s for cost in range(1, 6)]
    assert waits_s == [10, 20, 30, 40, 50]


@EITHER
async def test_reset_after_an_allowed_hit_is_when_the_bucket_is_fresh(
    limiter: RateLimiter, wall: Wall, limit: RateLimit
) -> None:
    reset_s = (await limiter.hit(limit, "k", cost=3)).state.reset_s
    assert reset_s > 0
    wall.now += reset_s + 0.001
    assert (await limiter.peek(limit, "k")).remaining == limit.amount


async def test_block_shuts_a_bucket_for_its_duration(limiter: RateLimiter, wall: Wall) -> None:
    assert await limiter.blocked_s("failures", "k") == 0
    await limiter.block("failures", "k", duration_s=30)
    assert await limiter.blocked_s("failures", "k") == 30
    assert await limiter.blocked_s("failures", "other") == 0
    wall.now += 28.5
    assert await limiter.blocked_s("failures", "k") == 2
    wall.now += 1.6
    assert await limiter.blocked_s("failures", "k") == 0


async def test_block_again_starts_the_duration_anew(limiter: RateLimiter, wall: Wall) -> None:
    await limiter.block("k", duration_s=30)
    wall.now += 20
    await limiter.block("k", duration_s=30)
    assert await limiter.blocked_s("k") == 30


@given(steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 3)), min_size=1, max_size=60))
async def test_no_window_ever_holds_more_than_an_exact_limit(steps: list[tuple[float, int]]) -> None:
    wall = Wall()
    limiter = MemoryRateLimiter(now=wall)
    allowed: list[tuple[float, int]] = []
    for pause_s, cost in steps:
        wall.now += pause_s
        recent = sum(c for at, c in allowed if at > wall.now - SMALL.window_s)
        if (await limiter.hit(SMALL, "k", cost=cost)).allowed:
            allowed.append((wall.now, cost))
            assert recent + cost <= SMALL.amount
        else:
            at_most_a_window_old = sum(c for at, c in allowed if at >= wall.now - SMALL.window_s)
            assert at_most_a_window_old + cost > SMALL.amount  # nobody is refused without cause
