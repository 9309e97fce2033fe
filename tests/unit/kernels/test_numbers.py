"""Vectors as JSON, by the kernels where they can run and by orjson where they cannot: the same bytes."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.cpu import needs_avx2, needs_avx512_f32

from vectoll.http.serialisation import _with_numbers
from vectoll.kernels import numbers as numbers_module
from vectoll.kernels.library import F32, F32_AVX2
from vectoll.kernels.numbers import Write, vector_writer

Floats = NDArray[np.float32]

MOST = 0x7F7FFFFF
"""The bits of the largest number."""


@pytest.fixture(
    params=["orjson", pytest.param("avx2", marks=needs_avx2), pytest.param("avx512", marks=needs_avx512_f32)],
    scope="module",
)
def write(request: pytest.FixtureRequest) -> Iterator[Write]:
    """What writes vectors: every way there is on this CPU."""
    if request.param == "orjson":
        yield _with_numbers
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers_module, "capabilities", lambda: F32 if request.param == "avx512" else F32_AVX2)
        writer = vector_writer.__wrapped__()
    assert writer is not None
    yield writer


def text_of(write: Write, numbers: Floats) -> bytes:
    """The array of one vector."""
    text = write([numbers.data], len(numbers), 0)
    beginning = b'{"object":"embedding","index":0,"embedding":'
    assert text.startswith(beginning)
    assert text.endswith(b"}")
    return text[len(beginning) : -1]


def of_bits(bits: "NDArray[np.integer]") -> Floats:
    return bits.astype(np.uint32).view(np.float32)


def bits_from(least: float, most: float) -> tuple[int, int]:
    low, high = np.array([least, most], np.float32).view(np.uint32)
    return int(low), int(high)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200))
@example([1e-45, -0.0, 3.4028234663852886e38, 1.1754943508222875e-38, 8.589973e9])
def test_every_number_reads_back_as_the_same_float32(write: Write, numbers: list[float]) -> None:
    vector = np.array(numbers, np.float32)
    read = np.array(json.loads(text_of(write, vector)), np.float64).astype(np.float32)
    assert read.tobytes() == vector.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_every_number_is_written_as_by_orjson(write: Write, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anywhere = of_bits(rng.integers(0, MOST, 50_000))
    as_in_vectors = (rng.standard_normal(50_000) / 20).astype(np.float32)
    for numbers in (anywhere, -anywhere, as_in_vectors):
        assert text_of(write, numbers) == orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)


def test_numbers_beside_powers_are_written_as_by_orjson(write: Write) -> None:
    """Where the next number below is nearer, where a digit more is needed, and where another form begins."""
    powers = np.concatenate([2.0 ** np.arange(-149, 128), 10.0 ** np.arange(-45, 39)]).astype(np.float32)
    bits = powers.view(np.uint32)[:, None] + np.arange(-40, 41)
    numbers = of_bits(np.clip(bits, 0, MOST).ravel())
    assert text_of(write, numbers) == orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)


def test_no_number_is_longer_than_its_room(write: Write) -> None:
    longest = of_bits(np.random.default_rng(1).integers(*bits_from(1e-6, 1e-5), 100_000))
    sizes = map(len, text_of(write, -longest)[1:-1].split(b","))
    assert max(sizes) + len(",") <= numbers_module.NUMBER_BYTES


@pytest.mark.parametrize("dims", [1, 63, 64, 65, 384, 1000])
def test_vectors_are_objects_with_their_index(write: Write, dims: int) -> None:
    vectors = np.random.default_rng(dims).standard_normal((5, dims)).astype(np.float32)
    objects = json.loads(b"[" + write([row.data for row in vectors], dims, 2044) + b"]")
    assert [each["index"] for each in objects] == [2044, 2045, 2046, 2047, 2048]
    assert {each["object"] for each in objects} == {"embedding"}
    read = np.array([each["embedding"] for each in objects], np.float64).astype(np.float32)
    assert read.tobytes() == vectors.tobytes()


def test_where_the_kernels_cannot_run_there_is_no_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers_module, "capabilities", lambda: 0)
    assert vector_writer.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(numbers_module, "load_library", lambda: None)
    assert vector_writer.__wrapped__() is None


@needs_avx2
def test_vectors_of_another_size_are_refused() -> None:
    write = vector_writer()
    assert write is not None
    with pytest.raises(ValueError, match="8 bytes are not 1 vectors of 3 components"):
        write([np.zeros(2, np.float32).data], 3, 0)


def test_threads_do_not_write_over_each_other(write: Write) -> None:
    vectors = np.random.default_rng(3).standard_normal((16, 4096)).astype(np.float32)
    expected = [write([row.data], 4096, 0) for row in vectors]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: write([row.data], 4096, 0), [*vectors] * 20))
    assert found == expected * 20
