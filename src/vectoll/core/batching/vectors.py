"""Arithmetic on finished vectors (float32, unit length)."""

from collections.abc import Sequence

import numpy as np

from vectoll.domain.embedding import Vector


def all_finite(vectors: Sequence[Vector]) -> bool:
    """Whether no vector holds a NaN or an infinity."""
    return bool(np.isfinite(_array(b"".join(vectors))).all())  # copied, as a call for each would cost more


def shorten(vectors: Sequence[Vector], dims: int) -> list[Vector]:
    """The first ``dims`` components of each, normalised again to unit length (Kusupati et al. 2022, §3)."""
    cut = np.stack([_array(vector)[:dims] for vector in vectors])
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    cut = cut / np.maximum(norms, np.float32(1e-12))
    return [row.data.toreadonly() for row in cut]


def _array(vector: Vector | bytes) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.frombuffer(vector, dtype=np.float32)
