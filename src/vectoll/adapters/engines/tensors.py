"""A checkpoint's tensors: of the shape that config.json says, as arrays."""

from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import DType, TensorView, Weights
from vectoll.domain.errors import ConfigurationError

Floats = np.ndarray[Any, np.dtype[np.float32]]


def floats(weights: Weights, name: str, *shape: int) -> Floats:
    """A weight of exactly this shape, as float32. Raises KeyError, ConfigurationError."""
    return as_float32(exactly(weights, name, *shape))


def exactly(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of exactly this shape. Raises KeyError, ConfigurationError."""
    view = at_least(weights, name, *shape)
    if view.shape != shape:
        raise _of_another_shape(name, view, shape)
    return view


def at_least(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of this shape, or of more rows. Raises KeyError, ConfigurationError."""
    view = weights[name]
    if len(view.shape) != len(shape) or view.shape[1:] != shape[1:] or view.shape[0] < shape[0]:
        raise _of_another_shape(name, view, shape)
    return view


def _of_another_shape(name: str, view: TensorView, shape: tuple[int, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"the weight {name} has the shape {list(view.shape)} where config.json asks for {list(shape)}"
    )


def as_float32(view: TensorView) -> Floats:
    """A tensor as float32: a view where it is one already, else a converted copy."""
    if view.dtype is DType.F32:
        return np.frombuffer(view.data, np.float32).reshape(view.shape)
    if view.dtype is DType.F16:
        return np.frombuffer(view.data, np.float16).reshape(view.shape).astype(np.float32)
    bits = np.frombuffer(view.data, np.uint16).reshape(view.shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)
