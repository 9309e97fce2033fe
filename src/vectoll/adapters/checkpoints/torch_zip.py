"""Reads ``pytorch_model.bin`` without torch and without running it: every tensor is a view into a memory map.

The format (torch 1.6 and later): a zip of stored files, ``*/data.pkl`` beside one file per storage. The pickle is a
stranger's program. Of all that one can name, ours knows the few things that make up a dictionary of tensors; whatever
else it asks for ends the reading, and nothing is imported, called or allocated for it.
"""

import math
import mmap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoll.adapters.checkpoints.pickled import run_pickle
from vectoll.adapters.checkpoints.safetensors import ITEM_BYTES, Entry, Weights
from vectoll.domain.errors import ConfigurationError

PICKLE_NAME = "pytorch_model.bin"
MAX_PICKLE_BYTES = 16_000_000
"""Names, shapes and places of a model's tensors take some tens of kilobytes."""

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_BROKEN = (
    zipfile.BadZipFile, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What reading rubbish raises."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of elements in the archive."""

    dtype: str
    start: int
    count: int


def open_torch_zip(path: Path) -> Weights:
    """Map a file that ``torch.save`` made of a state dictionary.

    Raises ConfigurationError when it cannot be read, holds anything but tensors, or is of the format before 1.6.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _members(archive, size)
            state = _Reader(archive, members, size).load()
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise ConfigurationError(f"cannot read the weights {path}: {error.strerror}") from None
    except _BROKEN as error:
        why = str(error) or type(error).__name__
        raise ConfigurationError(f"{path} is not a torch archive of tensors: {why[:200]}") from None
    return Weights({name: (mapped, entry) for name, entry in state.items()})


def _members(archive: zipfile.ZipFile, size: int) -> Mapping[str, zipfile.ZipInfo]:
    """By name below the one folder that an archive has. Raises ValueError unless all lie there as they are."""
    infos = archive.infolist()
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1:
        raise ValueError("not one folder")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise ValueError("compressed")
    return {info.filename.partition("/")[2]: info for info in infos}


class _Reader:
    """Follows one archive's pickle."""

    def __init__(self, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], size: int) -> None:
        self._archive = archive
        self._members = members
        self._size = size

    def load(self) -> Mapping[str, Entry]:
        """The tensors by name."""
        if "byteorder" in self._members and self._archive.read(self._members["byteorder"]) != b"little":
            raise ValueError("big-endian")
        program = self._members["data.pkl"]
        if program.file_size > MAX_PICKLE_BYTES:
            raise ValueError("a pickle that is far too large")
        state = run_pickle(self._archive.read(program), _KNOWN, self._storage)
        if not isinstance(state, dict) or not state:
            raise TypeError("no dictionary")
        if not all(isinstance(k, str) and isinstance(v, Entry) for k, v in state.items()):
            raise TypeError("not only tensors by name")
        return state

    def _storage(self, reference: Any) -> _Storage:
        """``("storage", type, file, device, elements)``"""
        kind, dtype, key, _device, count = reference
        if not isinstance(dtype, str) or not isinstance(key, str):
            raise TypeError("a reference to something that is no storage")
        if kind != "storage" or dtype not in ITEM_BYTES or type(count) is not int or count < 0:
            raise ValueError("a reference to something that is no storage")
        start, size = self._place(self._members[f"data/{key}"])
        if size < count * ITEM_BYTES[dtype]:
            raise ValueError("a storage is shorter than it says")
        return _Storage(dtype, start, count)

    def _place(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        """Where a member's bytes lie in the file: behind its own header, which may differ from the directory's."""
        file: Any = self._archive.fp
        at = file.tell()
        file.seek(info.header_offset)
        header = file.read(30)
        file.seek(at)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("a broken directory")
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + 30 + names
        if start + info.file_size > self._size:
            raise ValueError("cut short")
        return start, info.file_size


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *_gradients_and_hooks: Any) -> Entry:
    """A contiguous part of a storage."""
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise TypeError("a tensor without a storage")
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride) or len(shape) > 8:
        raise TypeError("a tensor without a shape")
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise TypeError("a tensor without a shape")
    expected = 1
    for extent, step in zip(reversed(shape), reversed(stride), strict=True):
        if extent > 1 and step != expected:
            raise ValueError("a tensor that is not contiguous")
        expected *= extent
    count = math.prod(shape)
    if offset + count > storage.count:
        raise ValueError("a tensor beyond its storage")
    item = ITEM_BYTES[storage.dtype]
    start = storage.start + offset * item
    return Entry(storage.dtype, shape, start, start + count * item)


def _empty() -> dict[str, Any]:
    """Filled afterwards, by name: what a dictionary is made from is hashed."""
    return {}


def _parameter(tensor: Any, *_gradients_and_hooks: Any) -> Any:
    return tensor


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _empty,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}
"""All that a pickle may name."""
