"""The bytes between gateway and replica."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.engines.ray.frames import (
    BadFrame,
    Outcome,
    Question,
    decode_difference,
    decode_question,
    decode_vectors,
    encode_answer,
    encode_difference,
    encode_question,
    encode_refusal,
    outcome_of,
)
from vectoll.domain.identity import NOBODY, Caller

SEQUENCES = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), min_size=1, max_size=20)


def vectors(count: int, dims: int = 3) -> list[memoryview]:
    rows = np.arange(count * dims, dtype="<f4").reshape(count, dims)
    return [row.data.toreadonly() for row in rows]


@given(SEQUENCES, st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_question_survives_the_way(sequences: list[list[int]], account: str, key: str) -> None:
    headers, marks, caller = {"traceparent": "00-1-2-01"}, {"pooling": "cls"}, Caller(account, key)
    asked = decode_question(encode_question(Question(sequences, caller, headers, marks)))
    assert [list(s) for s in asked.sequences] == sequences
    assert (asked.caller, asked.headers, asked.marks) == (caller, headers, marks)


def test_who_sends_a_question_without_an_account_is_one_of_its_own() -> None:
    meta = b'{"caller":"key_1","headers":{}}'
    asked = decode_question(b"VTQ1" + struct.pack("<I", len(meta)) + meta + struct.pack("<Iii", 1, 1, 5))
    assert asked.caller == Caller.keyless("key_1")


@given(st.binary(max_size=200))
def test_any_other_bytes_are_a_bad_frame(noise: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_question(noise)
    with pytest.raises(BadFrame):
        decode_question(b"VTQ1" + noise)
    with pytest.raises(BadFrame):
        outcome_of(noise)


@given(SEQUENCES, st.data())
def test_question_that_was_cut_short_is_a_bad_frame(sequences: list[list[int]], data: st.DataObject) -> None:
    frame = encode_question(Question(sequences, NOBODY))
    with pytest.raises(BadFrame):
        decode_question(frame[: data.draw(st.integers(0, len(frame) - 1))])


@pytest.mark.parametrize("sequences", [[], [[]], [[1], []]])
def test_question_without_tokens_is_a_bad_frame(sequences: list[list[int]]) -> None:
    with pytest.raises(BadFrame):
        decode_question(encode_question(Question(sequences, NOBODY)))


def test_lengths_that_overflow_are_a_bad_frame() -> None:
    meta = b'{"caller":"a"}'
    head = b"VTQ1" + struct.pack("<I", len(meta)) + meta
    with pytest.raises(BadFrame):
        decode_question(head + struct.pack("<Iii", 2**32 - 1, 1, 1))
    with pytest.raises(BadFrame):
        decode_question(head + struct.pack("<Iiii", 2, -1, 1, 5))


def test_vectors_survive_the_way() -> None:
    frame = encode_answer(vectors(2), 3)
    assert outcome_of(frame) == (Outcome.OK, 2)
    assert [list(v) for v in decode_vectors(frame, 2, 3)] == [[0, 1, 2], [3, 4, 5]]
    assert decode_vectors(frame, 2, 3)[0].format == "f"


@pytest.mark.parametrize(("count", "dims"), [(1, 3), (3, 3), (2, 4), (3, 2)])
def test_other_number_or_size_of_vectors_is_a_bad_frame(count: int, dims: int) -> None:
    with pytest.raises(BadFrame):
        decode_vectors(encode_answer(vectors(2), 3), count, dims)


def test_answer_that_was_cut_short_is_a_bad_frame() -> None:
    with pytest.raises(BadFrame):
        decode_vectors(encode_answer(vectors(2), 3)[:-4], 2, 3)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_vector_that_is_not_finite_is_a_bad_frame(wrong: float) -> None:
    row = np.array([0.5, wrong, 0.5], dtype="<f4").data
    with pytest.raises(BadFrame):
        decode_vectors(encode_answer([row], 3), 1, 3)


def test_refusal_says_when_to_come_back() -> None:
    assert outcome_of(encode_refusal(Outcome.FULL, 7)) == (Outcome.FULL, 7)


def test_a_difference_names_settings_and_nothing_else() -> None:
    frame = encode_difference(["pooling", "max_tokens"])
    assert outcome_of(frame)[0] is Outcome.DIFFERENT
    assert decode_difference(frame) == ["pooling", "max_tokens"]
    for noise in (b"", b"<script>", b"a,", b"a" * 10_000, b"a\n"):
        with pytest.raises(BadFrame):
            decode_difference(encode_difference([]) + noise)
