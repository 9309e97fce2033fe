"""Passive health of a model's base URLs."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.upstreams.endpoints import (
    EJECTION_S,
    MAX_EJECTION_S,
    MAX_HEEDED_S,
    MAX_TRIAL_WAIT_S,
    Endpoint,
    Endpoints,
)
from vectoll.adapters.upstreams.failures import NotAsked


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def three() -> tuple[Endpoints, Clock]:
    clock = Clock()
    return Endpoints(["a", "b", "c"], clock), clock


def get(endpoints: Endpoints, url: str) -> Endpoint:
    tried: set[Endpoint] = set()
    while found := endpoints.healthy(tried):
        if found.url == url:
            return found
        tried.add(found)
    raise AssertionError(url)


def test_the_least_busy_is_next_and_ties_go_round() -> None:
    endpoints, clock = three()
    order = []
    for _ in range(6):
        clock.now += 1
        endpoint = endpoints.any()
        endpoints.started(endpoint)
        endpoints.finished(endpoint)
        order.append(endpoint.url)
    assert order == ["a", "b", "c"] * 2
    busy = endpoints.any()
    endpoints.started(busy)
    for _ in range(2):
        clock.now += 1
        other = endpoints.any()
        assert other is not busy
        endpoints.started(other)
        endpoints.finished(other)
    assert endpoints.any() is not busy, "although it was used the longest ago"


def test_three_failures_in_a_row_eject_and_an_answer_between_starts_again() -> None:
    endpoints, _ = three()
    a = get(endpoints, "a")
    assert [endpoints.failed(a, is_silent=False), endpoints.failed(a, is_silent=False)] == [False, False]
    endpoints.answered(a)
    assert [endpoints.failed(a, is_silent=False) for _ in range(3)] == [False, False, True]
    assert {endpoints.healthy(), endpoints.healthy({get(endpoints, "b")})} == {
        get(endpoints, "b"),
        get(endpoints, "c"),
    }


def test_an_ejected_endpoint_gets_one_call_when_its_time_is_up() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    for _ in range(3):
        endpoints.failed(a, is_silent=False)
    clock.now += EJECTION_S - 0.1
    assert endpoints.healthy(others) is None
    clock.now += 0.2
    assert endpoints.healthy(others) is a
    endpoints.started(a)
    assert endpoints.healthy(others) is None, "its trial is under way"
    endpoints.finished(a)
    endpoints.failed(a, is_silent=False)
    clock.now += EJECTION_S + 0.1
    assert endpoints.healthy(others) is None, "twice as long the second time"
    clock.now += EJECTION_S
    endpoints.answered(a)
    endpoints.started(a)
    assert endpoints.healthy(others) is a


def test_calls_that_fail_together_eject_for_as_long_as_three_of_them() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    assert [endpoints.failed(a, is_silent=False) for _ in range(20)] == [False, False, *[True] * 18]
    clock.now += EJECTION_S
    assert endpoints.healthy(others) is a


def test_an_answer_to_an_earlier_call_does_not_shorten_the_wait_that_was_asked_for() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    endpoints.asked_to_wait(a, 10)
    endpoints.answered(a)
    assert endpoints.healthy(others) is None
    clock.now += 5
    assert endpoints.wait_s(a) == 5
    clock.now += 5
    assert endpoints.healthy(others) is a


def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asked() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    endpoints.asked_to_wait(a, 10)
    clock.now += 9.9
    assert endpoints.healthy(others) is None
    clock.now += 0.2
    assert endpoints.healthy(others) is a


@pytest.mark.parametrize(("asked_s", "heeded_s"), [(90, 90), (3600, 3600), (86_400, MAX_HEEDED_S)])
def test_a_long_wait_is_heeded_up_to_an_hour(asked_s: float, heeded_s: float) -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    endpoints.asked_to_wait(a, asked_s)
    clock.now += heeded_s - 1
    assert endpoints.wait_s(a) == 1
    assert endpoints.healthy(others) is None
    clock.now += 1
    assert endpoints.wait_s(a) == 0
    assert endpoints.healthy(others) is a


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["fail", "answer", "wait"]), st.floats(0, 10_000)))
)
def test_there_is_always_one_to_try_and_none_is_shut_out_for_good(
    events: list[tuple[int, str, float]],
) -> None:
    endpoints, clock = three()
    all_three = [get(endpoints, url) for url in "abc"]
    for index, event, seconds in events:
        endpoint = all_three[index]
        match event:
            case "fail":
                endpoints.failed(endpoint, is_silent=False)
            case "answer":
                endpoints.answered(endpoint)
            case "wait":
                endpoints.asked_to_wait(endpoint, seconds)
        clock.now += seconds / 10
        assert endpoints.any() in all_three
    clock.now += max(MAX_EJECTION_S, MAX_HEEDED_S)
    assert all(endpoints.healthy({e for e in all_three if e is not endpoint}) for endpoint in all_three)


def silent_one() -> tuple[Endpoints, Endpoint, Clock]:
    """A lone endpoint whose last three calls came to nothing; the next was sent a moment ago."""
    clock = Clock()
    endpoints = Endpoints(["a"], clock)
    endpoint = endpoints.any()
    for _ in range(3):
        endpoints.failed(endpoint, is_silent=True)
    return endpoints, endpoint, clock


@contextmanager
def call(endpoints: Endpoints, endpoint: Endpoint) -> Iterator[None]:
    endpoints.started(endpoint)
    try:
        yield
    finally:
        endpoints.finished(endpoint)


async def test_a_silent_endpoint_is_asked_by_one_and_another_every_few_seconds() -> None:
    endpoints, endpoint, clock = silent_one()
    async with AsyncExitStack() as calls:
        for _ in range(3):
            await calls.enter_async_context(endpoints.turn(endpoint, asyncio.Event()))
            calls.enter_context(call(endpoints, endpoint))
            clock.now += MAX_TRIAL_WAIT_S
            with pytest.raises(NotAsked) as caught:
                async with endpoints.turn(endpoint, asyncio.Event()):
                    pass
            assert caught.value.retry_after_s == EJECTION_S
            clock.now += EJECTION_S
    assert not endpoint.trial.locked()
    async with endpoints.turn(endpoint, asyncio.Event()):
        assert endpoint.trial.locked()


@pytest.mark.parametrize("outcome", ["answered", "busy", "500"])
async def test_who_waits_for_a_trial_goes_on_with_all_others_when_anything_comes_back(outcome: str) -> None:
    endpoints, endpoint, _ = silent_one()
    everybody = asyncio.Barrier(11)

    async def ask() -> None:
        async with endpoints.turn(endpoint, asyncio.Event()):
            await everybody.wait()

    async with endpoints.turn(endpoint, asyncio.Event()):
        endpoints.started(endpoint)
        waiting = [asyncio.create_task(ask()) for _ in range(10)]
        await asyncio.sleep(0)
        match outcome:
            case "answered":
                endpoints.answered(endpoint)
            case "busy":
                endpoints.asked_to_wait(endpoint, None)
            case "500":
                endpoints.failed(endpoint, is_silent=False)
    async with asyncio.timeout(MAX_TRIAL_WAIT_S / 2):
        await everybody.wait()
        await asyncio.gather(*waiting)


async def test_who_has_left_while_waiting_for_a_trial_is_not_asked_for() -> None:
    endpoints, endpoint, _ = silent_one()
    abandoned = asyncio.Event()

    async def ask() -> None:
        async with endpoints.turn(endpoint, abandoned):
            pass

    async with endpoints.turn(endpoint, asyncio.Event()):
        endpoints.started(endpoint)
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(0)
        abandoned.set()
    with pytest.raises(NotAsked):
        await waiting
    assert not endpoint.trial.locked()


async def test_of_silent_endpoints_one_that_nobody_tries_is_next() -> None:
    endpoints, _ = three()
    for endpoint in [get(endpoints, url) for url in "abc"]:
        for _ in range(3):
            endpoints.failed(endpoint, is_silent=True)
    seen = []
    async with AsyncExitStack() as trials:
        for _ in range(3):
            seen.append(endpoints.any().url)
            await trials.enter_async_context(endpoints.turn(endpoints.any(), asyncio.Event()))
    assert sorted(seen) == ["a", "b", "c"]
