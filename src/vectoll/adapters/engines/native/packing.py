"""A checkpoint's matrices as the kernels read them: ``kernels/sources/tower.h`` says how."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import DType, TensorView, Weights
from vectoll.adapters.engines.tensors import floats
from vectoll.kernels.library import Products, load_library

Array = np.ndarray[Any, np.dtype[Any]]

PANEL = 32
"""Columns of a panel of weights. Sizes of heads and of the feed-forward block are rounded up to it, with zeros."""
ALIGNMENT = 64
STORED = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}
_SIZES: Mapping[Products, tuple[int, int]] = {
    "f32": (4, 0),
    "f32_avx2": (4, 0),
    "bf16": (2, 0),
    "int8": (1, 8),
}
"""Bytes of each input in a packed column, and of what follows the last one."""


class Memory:
    """Owns what a tower's C structures point to."""

    def __init__(self, products: Products) -> None:
        self.products = products
        self._kept: list[Array] = []

    def matrix(self, *parts: TensorView, by: Array | None = None) -> int:
        """The address of matrices packed one below the other: see ``pack``."""
        return self.keep(pack(parts, self.products, by))

    def vector(self, weights: Weights, name: str, size: int) -> int:
        """The address of a weight as float32. Raises KeyError, ConfigurationError."""
        return self.copy(floats(weights, name, size))

    def copy(self, array: Array) -> int:
        """The address of an aligned copy."""
        return self.keep(aligned_copy(array))

    def keep(self, array: Array) -> int:
        """The address of an array as it is."""
        self._kept.append(array)
        return array.ctypes.data


def pack(parts: Sequence[TensorView], products: Products, by: Array | None = None) -> Array:
    """Matrices [N, K], one below the other → panels of 32 columns, as bytes. Each N is a multiple of 32 and so is K.

    A panel is [K, 32] in f32, [K / 2, 32, 2] in bf16, [K / 4, 32, 4] in int8 and then [2, 32] in f32. In int8, weights
    are multiplied by [K] ``by`` first.
    """
    library = load_library()
    assert library is not None
    pack_part = getattr(library, f"vectoll_pack_{products}")
    item, behind = _SIZES[products]
    sizes = [math.prod(part.shape[:-1]) * (part.shape[-1] * item + behind) for part in parts]
    packed = aligned(sum(sizes))
    start = packed.ctypes.data
    for part, size in zip(parts, sizes, strict=True):
        stored = np.frombuffer(part.data, np.uint8)
        pack_part(
            math.prod(part.shape[:-1]),
            part.shape[-1],
            stored.ctypes.data,
            STORED[part.dtype],
            None if by is None else by.ctypes.data,
            start,
        )
        start += size
    return packed


def item_bytes(products: Products) -> int:
    """Bytes of a product's input; in the float products, of an element of attention too."""
    return _SIZES[products][0]


def padded(view: TensorView, shape: tuple[int, ...], axis: int, zeros: int) -> TensorView:
    """A matrix seen in a shape that splits one of its sides, with zeros behind one axis: [N, K] of another N or K."""
    if not zeros:
        return view
    bits = np.frombuffer(view.data, np.uint32 if view.dtype is DType.F32 else np.uint16).reshape(shape)
    wider = np.pad(bits, [(0, zeros if i == axis else 0) for i in range(len(shape))])
    wider = wider.reshape(view.shape[0], -1) if axis == len(shape) - 1 else wider.reshape(-1, view.shape[1])
    return TensorView(view.dtype, wider.shape, wider.data.cast("B"))


def round_up(size: int, step: int = PANEL) -> int:
    """The least multiple of ``step`` that is not smaller."""
    return -(-size // step) * step


def aligned_copy(array: Array) -> Array:
    """The same elements, back to back from an address that is a multiple of a cache line."""
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned(size_bytes: int) -> Array:
    """Fresh bytes from an address that is a multiple of a cache line."""
    memory = np.empty(size_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size_bytes]
