"""A checkpoint's tensors as arrays."""

from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import DType, TensorView, Weights, exactly

Floats = np.ndarray[Any, np.dtype[np.float32]]


def floats(weights: Weights, name: str, *shape: int) -> Floats:
    """A weight of exactly this shape, as float32. Raises KeyError, ConfigurationError."""
    return as_float32(exactly(weights, name, *shape))


def as_float32(view: TensorView) -> Floats:
    """A tensor as float32: a view where it is one already, else a converted copy."""
    if view.dtype is DType.F32:
        return np.frombuffer(view.data, np.float32).reshape(view.shape)
    if view.dtype is DType.F16:
        return np.frombuffer(view.data, np.float16).reshape(view.shape).astype(np.float32)
    bits = np.frombuffer(view.data, np.uint16).reshape(view.shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)
