"""The safetensors reader: exact views, and no trust in a header."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vectoll.adapters.checkpoints import DType, open_weights
from vectoll.domain.errors import ConfigurationError


def write(path: Path, header: Any, body: bytes, *, length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + body)


def entry(start: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_tensors_are_views_in_their_own_type(file: Path) -> None:
    floats = np.arange(6, dtype="<f4").reshape(2, 3)
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry(0, 24, shape=[2, 3]),
        "b": entry(24, 28, "BF16", [2]),
        "c": entry(28, 30, "F16", []),
        "ids": entry(30, 38, "I64", [1]),
    }
    write(file, header, floats.tobytes() + b"\x80\x3f\x00\x40" + b"\x00\x3c" + bytes(8))
    weights = open_weights(file.parent)
    assert sorted(weights) == ["a", "b", "c", "ids"]
    assert (weights["a"].dtype, weights["a"].shape) == (DType.F32, (2, 3))
    assert np.frombuffer(weights["a"].data, "<f4").tolist() == floats.ravel().tolist()
    assert (weights["b"].dtype, bytes(weights["b"].data)) == (DType.BF16, b"\x80\x3f\x00\x40")
    assert (weights["c"].dtype, weights["c"].shape) == (DType.F16, ())
    assert weights.size_bytes == 38
    with pytest.raises(ConfigurationError, match="ids is I64"):
        weights["ids"]


def test_two_views_share_the_file(file: Path) -> None:
    write(file, {"a": entry(0, 8)}, bytes(8))
    weights = open_weights(file.parent)
    first, second = (np.frombuffer(weights["a"].data, np.uint8) for _ in range(2))
    assert first.ctypes.data == second.ctypes.data


def test_under_a_prefix_names_are_shorter(file: Path) -> None:
    write(file, {"model.a": entry(0, 4), "model.b.c": entry(4, 8), "d": entry(8, 12)}, bytes(12))
    weights = open_weights(file.parent).under("model.")
    assert list(weights) == ["a", "b.c"]
    assert len(weights) == 2
    assert "a" in weights
    assert "d" not in weights
    assert list(weights.under("b.")) == ["c"]
    with pytest.raises(KeyError, match=r"model\.x"):
        weights["x"]


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write(tmp_path / "model-1-of-2.safetensors", {"a": entry(0, 4)}, struct.pack("<f", 1))
    write(tmp_path / "model-2-of-2.safetensors", {"b": entry(0, 4)}, struct.pack("<f", 2))
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = open_weights(tmp_path)
    assert [struct.unpack("<f", weights[name].data) for name in ("a", "b")] == [(1,), (2,)]


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "../model.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": "absent.safetensors"}}',
        b'{"weight_map": {"not there": "model.safetensors"}}',
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, index: bytes) -> None:
    write(tmp_path / "model.safetensors", {"a": entry(0, 4)}, bytes(4))
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ConfigurationError):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"[]", id="not an object"),
        pytest.param(b"{", id="not JSON"),
        pytest.param(b"[" * 100_000, id="deeply nested"),
        pytest.param(b'{"a": 1}', id="entry not an object"),
        pytest.param({"a": {}}, id="empty entry"),
        pytest.param({"a": entry(0, 8, "F33", [2])}, id="unknown dtype"),
        pytest.param({"a": entry(0, 8, shape=[3])}, id="shape and size disagree"),
        pytest.param({"a": entry(0, 8, shape=[-1, -2])}, id="negative shape"),
        pytest.param({"a": entry(0, 8, shape=[True, 2])}, id="boolean in shape"),
        pytest.param({"a": entry(0, 8, shape=[2.0])}, id="float in shape"),
        pytest.param({"a": entry(0, 8, shape=[1] * 8 + [2])}, id="too many axes"),
        pytest.param({"a": entry(0, 8, shape="2")}, id="shape not a list"),
        pytest.param({"a": entry(0, 4)}, id="bytes left over"),
        pytest.param({"a": entry(4, 8)}, id="gap at the start"),
        pytest.param({"a": entry(0, 12)}, id="beyond the end"),
        pytest.param({"a": entry(0, 8), "b": entry(4, 8)}, id="overlap"),
        pytest.param({"a": entry(8, 0, shape=[0])}, id="end before start"),
        pytest.param({"a": entry(0, 2**62, shape=[2**60])}, id="enormous"),
        pytest.param(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": 1}', id="name twice"),
    ],
)
def test_a_header_that_lies_is_refused(file: Path, header: Any) -> None:
    write(file, header, bytes(8))
    with pytest.raises(ConfigurationError, match="header"):
        open_weights(file.parent)


@pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1, 10**9])
def test_a_header_length_that_lies_is_refused(file: Path, length: int) -> None:
    write(file, {"a": entry(0, 8)}, bytes(8), length=length)
    with pytest.raises(ConfigurationError):
        open_weights(file.parent)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 5) + b"{}"])
def test_a_file_cut_short_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigurationError):
        open_weights(file.parent)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.safetensors"):
        open_weights(tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    write(file, {"a": entry(0, 8), "b": entry(8, 12, "BF16", [2])}, bytes(12))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        weights = open_weights(file.parent)
        for name in weights:
            view = weights[name]
            assert view.data.nbytes == int(np.prod(view.shape)) * (4 if view.dtype is DType.F32 else 2)
    except ConfigurationError:
        pass


def test_released_pages_come_back_from_the_file(file: Path) -> None:
    write(file, {"a": entry(0, 8)}, struct.pack("<ff", 1, 2))
    weights = open_weights(file.parent)
    view = weights["a"].data
    assert struct.unpack("<ff", view) == (1, 2)
    weights.release_pages()
    assert struct.unpack("<ff", view) == (1, 2)
