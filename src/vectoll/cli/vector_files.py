"""Vectors to files: JSON lines, or a numpy array that is written as it comes."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from vectoll.domain.embedding import Vector
from vectoll.domain.errors import Unusable, VectollError


class VectorWriter(Protocol):
    """Takes vectors in the order of their texts."""

    def write(self, vector: Vector) -> None:
        """The next text's vector."""
        ...


@contextmanager
def open_writer(path: Path | None) -> Iterator[VectorWriter]:
    """A writer to ``path``, or of JSON lines to standard output.

    A file gets its name when all vectors are in it: what was there before stays when something goes wrong. Raises
    Unusable when it cannot be made, VectollError when it cannot be written.
    """
    if path is None or str(path) == "-":
        yield JsonLinesWriter(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with _new_file(path) as file:
        if path.suffix != ".npy":
            yield JsonLinesWriter(file)
            return
        writer = NpyWriter(file)
        yield writer
        writer.finish()


@contextmanager
def _new_file(path: Path) -> Iterator["_Checked"]:
    """A file beside ``path`` that takes its place at the end, with its mode; a device or a pipe as it is."""
    target = path.resolve()  # a link stays one
    try:
        mode = target.stat().st_mode if target.exists() else None
        is_replaced = mode is None or stat.S_ISREG(mode)
        written = target.with_name(f".{target.name}.{os.getpid()}.partial") if is_replaced else target
        file = written.open("wb")
    except OSError as error:
        raise Unusable(f"cannot write to {path}: {error.strerror}") from None
    try:
        yield _Checked(file, path)
        with _explaining(path):
            file.close()
            if mode is not None and is_replaced:
                written.chmod(stat.S_IMODE(mode))
            if is_replaced:
                written.replace(target)
    finally:
        with suppress(OSError):  # of a full disk: it was told
            file.close()
        if is_replaced:
            written.unlink(missing_ok=True)


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VectollError(f"cannot write to {path}: {error.strerror}") from None


class _Checked:
    """A file whose errors are told to people."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, content: bytes | Vector) -> int:
        """See ``BinaryIO.write``. Raises VectollError."""
        with _explaining(self._path):
            return self._file.write(content)

    def seek(self, offset: int) -> int:
        """See ``BinaryIO.seek``. Raises VectollError."""
        with _explaining(self._path):
            return self._file.seek(offset)


class JsonLinesWriter:
    """``{"index":0,"embedding":[…]}``, a line each; a float has the digits that give the same float32 back."""

    def __init__(self, file: "BinaryIO | _Checked") -> None:
        self._file = file
        self._index = 0

    def write(self, vector: Vector) -> None:
        """One line."""
        import numpy as np
        import orjson

        line = {"index": self._index, "embedding": np.frombuffer(vector, np.float32)}
        self._file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        self._index += 1


class NpyWriter:
    """A float32 array of shape (texts, dims). Its header is written twice: numpy leaves room for the count."""

    def __init__(self, file: "BinaryIO | _Checked") -> None:
        self._file = file
        self._count = 0
        self._dims = 0

    def write(self, vector: Vector) -> None:
        """One row."""
        if not self._count:
            self._dims = len(vector)
            self._write_header()
        self._file.write(vector)
        self._count += 1

    def finish(self) -> None:
        """Write the real count."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        import numpy as np

        order = "<f4" if sys.byteorder == "little" else ">f4"
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": order, "fortran_order": False, "shape": (self._count, self._dims)}
        )
