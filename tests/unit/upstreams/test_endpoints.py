"""Passive health of a model's base URLs."""

from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.upstreams.endpoints import EJECTION_S, MAX_EJECTION_S, Endpoint, Endpoints


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
    assert [endpoints.failed(a), endpoints.failed(a)] == [False, False]
    endpoints.answered(a)
    assert [endpoints.failed(a) for _ in range(3)] == [False, False, True]
    assert {endpoints.healthy(), endpoints.healthy({get(endpoints, "b")})} == {
        get(endpoints, "b"),
        get(endpoints, "c"),
    }


def test_an_ejected_endpoint_gets_one_call_when_its_time_is_up() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    for _ in range(3):
        endpoints.failed(a)
    clock.now += EJECTION_S - 0.1
    assert endpoints.healthy(others) is None
    clock.now += 0.2
    assert endpoints.healthy(others) is a
    endpoints.started(a)
    assert endpoints.healthy(others) is None, "its trial is under way"
    endpoints.finished(a)
    endpoints.failed(a)
    clock.now += EJECTION_S + 0.1
    assert endpoints.healthy(others) is None, "twice as long the second time"
    clock.now += EJECTION_S
    endpoints.answered(a)
    endpoints.started(a)
    assert endpoints.healthy(others) is a


def test_calls_that_fail_together_eject_for_as_long_as_three_of_them() -> None:
    endpoints, clock = three()
    a, others = get(endpoints, "a"), {get(endpoints, "b"), get(endpoints, "c")}
    assert [endpoints.failed(a) for _ in range(20)] == [False, False, *[True] * 18]
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


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["fail", "answer", "wait"]), st.floats(0, 100))))
def test_there_is_always_one_to_try_and_none_is_shut_out_for_good(
    events: list[tuple[int, str, float]],
) -> None:
    endpoints, clock = three()
    all_three = [get(endpoints, url) for url in "abc"]
    for index, event, seconds in events:
        endpoint = all_three[index]
        match event:
            case "fail":
                endpoints.failed(endpoint)
            case "answer":
                endpoints.answered(endpoint)
            case "wait":
                endpoints.asked_to_wait(endpoint, seconds)
        clock.now += seconds / 10
        assert endpoints.any() in all_three
    clock.now += MAX_EJECTION_S
    assert all(endpoints.healthy({e for e in all_three if e is not endpoint}) for endpoint in all_three)
