"""What an upstream sends, checked."""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.upstreams.failures import BadAnswer
from vectoll.adapters.upstreams.vectors import from_base64, to_vectors

finite = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=5), st.sampled_from([2, 4]))
def test_every_delivered_vector_is_finite_and_of_unit_length(rows: list[list[float]], dims: int) -> None:
    try:
        vectors = to_vectors(rows, dims, 4)
    except BadAnswer:
        assert any(not np.any(np.asarray(row, np.float32)[:dims].astype(np.float64) ** 2) for row in rows)
        return
    assert len(vectors) == len(rows)
    for vector in vectors:
        assert vector.shape == (dims,)
        assert vector.readonly
        assert abs(float(np.linalg.norm(np.asarray(vector, np.float64))) - 1) < 2e-3


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_vectors_or_a_bad_answer(row: bytes) -> None:
    try:
        (vector,) = to_vectors([row], 4, 8)
    except BadAnswer:
        return
    assert np.isfinite(np.asarray(vector)).all()


@given(st.text())
def test_text_of_any_kind_is_bytes_or_a_bad_answer(text: str) -> None:
    try:
        decoded = from_base64(text)
    except BadAnswer:
        return
    assert base64.b64decode(text, validate=True) == decoded


def test_the_rounding_of_a_provider_is_left_as_it_is() -> None:
    row = np.asarray([0.6, 0.8001], "<f4").tobytes()
    assert bytes(to_vectors([row], 2, 2)[0]) == row


@pytest.mark.parametrize("rows", [[[1.0], [1.0, 0.0]], [b"\0" * 8, b"\0" * 4], [[]], [b"abc"]])
def test_sizes_that_differ_or_do_not_fit_are_a_bad_answer(rows: list[Any]) -> None:
    with pytest.raises(BadAnswer):
        to_vectors(rows, 2, 2)
