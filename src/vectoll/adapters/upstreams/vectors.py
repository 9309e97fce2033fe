"""From what an upstream sends to vectors that can be delivered."""

import binascii
from collections.abc import Sequence

import numpy as np

from vectoll.adapters.upstreams.failures import BadAnswer
from vectoll.domain.embedding import Vector

UNIT_TOLERANCE = 1e-3
"""A length further from 1 than this is normalised; one within is the provider's own rounding and left as it is."""

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def from_base64(text: str) -> bytes:
    """Little-endian float32, in base64. Raises BadAnswer."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise BadAnswer("a vector that is not base64") from None


def to_vectors(rows: Sequence[bytes | Sequence[float]], dims: int, native_dims: int) -> list[Vector]:
    """One unit vector of ``dims`` float32 per row, which is little-endian float32 or numbers.

    A server that ignores ``dimensions`` sends ``native_dims``: those are cut and normalised again. Raises
    BadAnswer for any other size, or a vector that is not finite or has no length.
    """
    sizes = {len(row) // 4 if isinstance(row, bytes) else len(row) for row in rows}
    if len(sizes) != 1 or any(isinstance(row, bytes) and len(row) % 4 for row in rows):
        raise BadAnswer("vectors of several sizes")
    size = sizes.pop()
    if size not in (dims, native_dims):
        raise BadAnswer(f"vectors of {size} dimensions instead of {dims}")
    matrix = np.empty((len(rows), size), np.float32)
    with np.errstate(over="ignore"):
        for i, row in enumerate(rows):
            matrix[i] = np.frombuffer(row, "<f4") if isinstance(row, bytes) else row
    return _unit_rows(matrix[:, :dims])


def _unit_rows(matrix: Matrix) -> list[Vector]:
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise BadAnswer("a vector that is not finite")
    if not lengths.all():
        raise BadAnswer("a vector of zeros")
    if (np.abs(lengths - 1.0) > UNIT_TOLERANCE).any():
        matrix = (matrix / lengths[:, None]).astype(np.float32)
    matrix = np.ascontiguousarray(matrix)
    matrix.setflags(write=False)
    return [row.data for row in matrix]
