"""One request in parts."""

from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.engines.ray.parts import split


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 100))
def test_every_sequence_travels_once_and_parts_are_bounded(lengths: list[int], max_tokens: int) -> None:
    parts = list(split([[0] * n for n in lengths], max_tokens))
    assert sorted(p for part in parts for p in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or sum(lengths[p] for p in part) <= max_tokens


def test_like_lengths_travel_together() -> None:
    parts = list(split([[0] * n for n in (9, 1, 9, 1)], 10))
    assert [list(part) for part in parts] == [[1, 3], [0], [2]]


def test_small_request_stays_whole_and_in_order() -> None:
    assert [list(part) for part in split([[0] * 5, [0] * 2], 10)] == [[0, 1]]
