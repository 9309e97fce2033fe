"""What every client must give, and how it is compared."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TEXTS = [
    "The cat sits outside",
    "A man is playing guitar",
    "Money is an integer of 10⁻¹² USD; 東京 and émigré are text too.",
    "Kubernetes autoscaling configuration quickstart",
]
"""One of each kind: plain, plain, beyond ASCII, and with cl100k_base ids that no BERT vocabulary has."""

REJECTING = "minilm-rejecting-token-ids"
NATIVE = "minilm-reading-its-own-ids"
"""Models of the acceptance server: the embedded default under other token-id policies."""


def assert_same_vectors(vectors: Sequence[Sequence[float]], reference: Floats) -> None:
    """Shape for shape, and cosine 1 row by row: batches of other shapes round differently in the last bits."""
    got = np.array(vectors, np.float32)
    assert got.shape == reference.shape
    cosines = np.sum(got * reference, axis=1)
    assert np.all(cosines > 0.9999), cosines
