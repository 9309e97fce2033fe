"""Reads safetensors files without copying: every tensor is a view into a private memory map.

The format: 8 bytes of little-endian header length, that many bytes of JSON, then the tensors back to back. The
header is a stranger's, so every number in it is checked before it is used.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeGuard

from vectoll.domain.errors import ConfigurationError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
"""The reference reader's limit."""

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


class DType(StrEnum):
    """The element types that engines compute with."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"


@dataclass(frozen=True, slots=True)
class TensorView:
    """One tensor: little-endian elements in C order, as they lie in the file.

    ``data`` is a flat view of bytes into a copy-on-write map: writable, because engines refuse memory that is
    not, but never to be written.
    """

    dtype: DType
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in a file: ``start`` to ``end`` in bytes, row-major."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Weights(Mapping[str, TensorView]):
    """The tensors of one model by name, over one file or several shards. Immutable; safe to share."""

    def __init__(self, tensors: Mapping[str, tuple[memoryview, Entry]], prefix: str = "") -> None:
        self._tensors = tensors
        self._prefix = prefix

    def __getitem__(self, name: str) -> TensorView:
        buffer, entry = self._tensors[self._prefix + name]
        try:
            dtype = DType(entry.dtype)
        except ValueError:
            raise ConfigurationError(
                f"the weight {self._prefix}{name} is {entry.dtype}: only F32, F16 and BF16 can be computed"
            ) from None
        return TensorView(dtype, entry.shape, buffer[entry.start : entry.end])

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._tensors

    def under(self, prefix: str) -> "Weights":
        """The same tensors, named from below ``prefix``."""
        return Weights(self._tensors, self._prefix + prefix)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors in view."""
        entries = (entry for name, (_, entry) in self._tensors.items() if name.startswith(self._prefix))
        return sum(entry.end - entry.start for entry in entries)

    @property
    def element_count(self) -> int:
        """How many numbers there are in view that engines compute with."""
        entries = (entry for name, (_, entry) in self._tensors.items() if name.startswith(self._prefix))
        return sum(math.prod(entry.shape) for entry in entries if entry.dtype in DType._value2member_map_)

    def release_pages(self) -> None:
        """Give the memory that reading has filled back to the system. What is read again comes from the file."""
        for pages in {id(buffer.obj): buffer.obj for buffer, _ in self._tensors.values()}.values():
            if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)


def open_weights(folder: Path) -> Weights:
    """Map ``model.safetensors``, or every shard that ``model.safetensors.index.json`` names.

    Raises ConfigurationError when there is none, or a file is not what its header says.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        return Weights(_open_file(folder / SINGLE_NAME))
    weight_map = _read_index(index)
    shards = {name: _open_file(folder / name) for name in sorted(set(weight_map.values()))}
    missing = next((tensor for tensor, shard in weight_map.items() if tensor not in shards[shard]), None)
    if missing is not None:
        raise ConfigurationError(
            f"{weight_map[missing]} lacks the weight {missing} that {INDEX_NAME} puts there"
        )
    return Weights({tensor: shards[shard][tensor] for tensor, shard in weight_map.items()})


def shard_names(folder: Path) -> list[str]:
    """The files that a sharded checkpoint is made of. Raises ConfigurationError for a broken index."""
    return sorted(set(_read_index(folder / INDEX_NAME).values()))


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        items = dict(weight_map.items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(f"{path} is not a safetensors index") from None
    for shard in items.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ConfigurationError(f"{path} names a shard that is not a safetensors file beside it")
    return items


def _open_file(path: Path) -> dict[str, tuple[memoryview, Entry]]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise ConfigurationError(f"{path} is not a safetensors file: it has {size} bytes")
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise ConfigurationError(f"cannot read the weights {path}: {error.strerror}") from None
    header_bytes = int.from_bytes(mapped[:8], "little")
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise ConfigurationError(f"{path} is cut short or not a safetensors file")
    body = mapped[8 + header_bytes :]
    try:
        entries = _parse_header(bytes(mapped[8 : 8 + header_bytes]), len(body))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} has an invalid header: {error}") from None
    return {name: (body, entry) for name, entry in entries.items()}


def _parse_header(raw: bytes, body_bytes: int) -> dict[str, Entry]:
    """Raises ValueError or TypeError unless the tensors fill the body exactly, without gap or overlap."""
    header = json.loads(raw, object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise TypeError("not an object")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, value) for name, value in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise ValueError(f"the tensor {name[:200]} overlaps another or leaves a gap")
        position = entry.end
    if position != body_bytes:
        raise ValueError(f"its tensors need {position} bytes, the file has {body_bytes}")
    return entries


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict):
        raise TypeError(f"the tensor {name[:200]} is not an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"the tensor {name[:200]} has an unknown dtype")
    if not _are_sizes(shape) or len(shape) > 8 or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the tensor {name[:200]} has no valid shape and offsets")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"the tensor {name[:200]} has {end - start} bytes, which its shape does not")
    return Entry(dtype, tuple(shape), start, end)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
