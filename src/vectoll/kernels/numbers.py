"""Vectors as the objects of the spec's JSON answer, their numbers written by the kernels: ``sources/numbers.h``."""

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence

from vectoll.kernels.library import F32, F32_AVX2, capabilities, load_library

NUMBER_BYTES = 18
"""Room for one with its comma. The longest are like ``-0.0000010000001,``; nine digits are stored in any case."""

OBJECT_BYTES = 80
"""Room for what is around the numbers of one vector."""

_WRITE = ctypes.PYFUNCTYPE(  # the interpreter stays locked: giving it away would cost more than the call
    ctypes.c_int64, ctypes.c_char_p, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_void_p
)

Write = Callable[[Sequence[memoryview], int, int], bytes]
"""Of vectors with so many components, the first of which has this index."""


@functools.cache
def vector_writer() -> Write | None:
    """Writes one vector at least as JSON objects with commas between them; None where the kernels cannot run.

    Numbers are the shortest text that reads back as the same float32. Raises ValueError for vectors that have not so
    many components together.
    """
    library, has = load_library(), capabilities()
    if library is None or not has & (F32 | F32_AVX2):
        return None
    write = _WRITE((f"vectoll_write_vectors_{'avx512' if has & F32 else 'avx2'}", library))
    powers = _powers()
    room = _Room()

    def vectors_as_json(vectors: Sequence[memoryview], dims: int, index: int) -> bytes:
        values, count = b"".join(vectors), len(vectors)
        if len(values) != 4 * count * dims:
            raise ValueError(f"{len(values)} bytes are not {count} vectors of {dims} components")
        out = room.of(count * (dims * NUMBER_BYTES + OBJECT_BYTES))
        return ctypes.string_at(out, write(values, count, dims, index, powers, out))

    return vectors_as_json


class _Room(threading.local):
    """Memory that each thread writes into, over and over: fresh pages would cost as much as the numbers."""

    _memory = ctypes.create_string_buffer(0)

    def of(self, size_bytes: int) -> "ctypes.Array[ctypes.c_char]":
        if len(self._memory) < size_bytes:
            self._memory = ctypes.create_string_buffer(size_bytes)
        return self._memory


def _powers() -> "ctypes.Array[ctypes.c_uint64]":
    """10^-k from k = -45 to 31, each as the next integer above 10^-k · 2^n, with such an n that it has 63 bits."""
    powers = []
    for k in range(-45, 32):
        scaled = (10 ** max(-k, 0) << 256) // 10 ** max(k, 0)
        powers.append((scaled >> (scaled.bit_length() - 63)) + 1)
    return (ctypes.c_uint64 * len(powers))(*powers)
