"""Vectors to files: JSON lines, or a numpy array that is written as it comes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError


class VectorWriter(Protocol):
    """Takes vectors in the order of their texts."""

    def write(self, vector: Vector) -> None:
        """The next text's vector."""
        ...


@contextmanager
def open_writer(path: Path | None) -> Iterator[VectorWriter]:
    """A writer to ``path``, or of JSON lines to standard output. Raises ConfigurationError."""
    if path is None or str(path) == "-":
        yield JsonLinesWriter(sys.stdout.buffer)
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {path}: {error.strerror}") from None
    with file:
        if path.suffix != ".npy":
            yield JsonLinesWriter(file)
            return
        writer = NpyWriter(file)
        yield writer
        writer.finish()


class JsonLinesWriter:
    """``{"index":0,"embedding":[…]}``, a line each; a float has the digits that give the same float32 back."""

    def __init__(self, file: BinaryIO) -> None:
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

    def __init__(self, file: BinaryIO) -> None:
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
