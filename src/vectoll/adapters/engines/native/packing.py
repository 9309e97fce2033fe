"""An encoder's weights as the kernels read them: ``kernels/encoder.h`` says how."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Activation, Architecture, DType, TensorView, Weights
from vectoll.adapters.engines.native.library import Encoder, Layer, load_library
from vectoll.adapters.engines.tensors import as_float32
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

Array = np.ndarray[Any, np.dtype[Any]]

PANEL = 32
"""Columns of a panel of weights. Sizes of heads and of the feed-forward block are rounded up to it, with zeros."""
ALIGNMENT = 64
_SIZES = {"f32": (4, 0), "f32_avx2": (4, 0), "bf16": (2, 0), "int8": (1, 8)}
"""Bytes of an input of a packed column, and of what is behind its last."""

_STORED = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}
_POOLINGS = {Pooling.CLS: 0, Pooling.MEAN: 1, Pooling.LAST: 2}


class PackedEncoder:
    """The C structure, and the memory that it points to. The words alone stay in the checkpoint's file.

    Raises KeyError for a weight that is not there, ConfigurationError for one of another shape than config.json says:
    the kernels believe what they are told.
    """

    def __init__(self, architecture: Architecture, weights: Weights, pooling: Pooling, products: str) -> None:
        self._architecture = architecture
        self._products = products
        self._kept: list[object] = []
        self._head_dim = _round_up(architecture.head_dim)
        self._intermediate = _round_up(architecture.intermediate)
        self._layers = (Layer * architecture.layers)(
            *(self._layer(weights, i) for i in range(architecture.layers))
        )
        words = _of_shape(
            weights, "embeddings.word_embeddings.weight", architecture.vocab, architecture.hidden
        )
        self.encoder = Encoder(
            architecture.layers,
            architecture.hidden,
            architecture.heads,
            self._intermediate,
            self._head_dim,
            _POOLINGS[pooling],
            _STORED[words.dtype],
            architecture.norm_eps,
            architecture.head_dim**-0.5,
            self._keep(np.frombuffer(words.data, np.uint8)),
            self._keep(aligned_copy(self._places(weights))),
            self._vector(weights, "embeddings.LayerNorm.weight", architecture.hidden),
            self._vector(weights, "embeddings.LayerNorm.bias", architecture.hidden),
            ctypes.addressof(self._layers),
        )

    def _places(self, weights: Weights) -> Array:
        """float32 [positions, hidden]: what a token's place adds, and the one token type."""
        hidden, first = self._architecture.hidden, self._architecture.position_offset
        rows = first + self._architecture.positions
        places = as_float32(_of_shape(weights, "embeddings.position_embeddings.weight", rows, hidden))
        types = _of_shape(weights, "embeddings.token_type_embeddings.weight", 1, hidden)
        summed: Array = places[first:rows] + as_float32(types)[0]
        return summed

    def _layer(self, encoder: Weights, number: int) -> Layer:
        shape = self._architecture
        heads, hidden, head_dim, inner = shape.heads, shape.hidden, shape.head_dim, shape.intermediate
        width = heads * head_dim
        rest, inner_rest = self._head_dim - head_dim, self._intermediate - inner
        weights = encoder.under(f"encoder.layer.{number}.")
        before = encoder.under(f"encoder.layer.{number - 1}.output." if number else "embeddings.")
        names = [f"attention.self.{name}" for name in ("query", "key", "value")]
        qkv = [_exactly(weights, f"{name}.weight", width, hidden) for name in names]
        qkv_bias = [floats(weights, f"{name}.bias", width).reshape(heads, head_dim) for name in names]
        seen = _exactly(weights, "attention.output.dense.weight", hidden, width)
        up = _exactly(weights, "intermediate.dense.weight", inner, hidden)
        down = _exactly(weights, "output.dense.weight", hidden, inner)
        up_bias = floats(weights, "intermediate.dense.bias", inner)
        qkv_by, up_by = self._smooth(before, qkv), self._smooth(weights.under("attention.output."), [up])
        return Layer(
            self._matrix(*(_padded(view, (heads, head_dim, hidden), 1, rest) for view in qkv), by=qkv_by),
            self._matrix(_padded(seen, (hidden, heads, head_dim), 2, rest)),
            self._matrix(_padded(up, up.shape, 0, inner_rest), by=up_by),
            self._matrix(_padded(down, down.shape, 1, inner_rest)),
            self._keep(aligned_copy(np.pad(np.concatenate(qkv_bias), ((0, 0), (0, rest))))),
            self._vector(weights, "attention.output.dense.bias", hidden),
            self._keep(aligned_copy(np.pad(up_bias, (0, inner_rest)))),
            self._vector(weights, "output.dense.bias", hidden),
            self._vector(weights, "attention.output.LayerNorm.weight", hidden),
            self._vector(weights, "attention.output.LayerNorm.bias", hidden),
            self._vector(weights, "output.LayerNorm.weight", hidden),
            self._vector(weights, "output.LayerNorm.bias", hidden),
            *(None if by is None else self._keep(aligned_copy(1 / by)) for by in (qkv_by, up_by)),
        )

    def _matrix(self, *parts: TensorView, by: Array | None = None) -> int:
        return self._keep(pack(parts, self._products, by))

    def _smooth(self, norm: Weights, parts: Sequence[TensorView]) -> Array | None:
        """In int8: what weights are multiplied by, and what a layer norm gives is divided by, so that neither has
        numbers that stand out and make the steps of the rest coarse (SmoothQuant, arXiv:2211.10438, strength 1/2).

        How large an input gets is not sampled: it is what the norm's own weight and bias make of a number of size 1.
        """
        if self._products != "int8":
            return None
        hidden = self._architecture.hidden
        weight, bias = (floats(norm, f"LayerNorm.{name}", hidden) for name in ("weight", "bias"))
        given, wanted = (
            np.hypot(weight, bias),
            np.max([np.abs(as_float32(part)).max(0) for part in parts], axis=0),
        )
        smallest = np.float32(1e-5)
        by: Array = np.sqrt(np.maximum(given, smallest) / np.maximum(wanted, smallest))
        return by

    def _vector(self, weights: Weights, name: str, size: int) -> int:
        return self._keep(aligned_copy(floats(weights, name, size)))

    def _keep(self, array: Array) -> int:
        """The address of an array that lives as long as this."""
        self._kept.append(array)
        return array.ctypes.data


def unsuitable(architecture: Architecture, pooling: Pooling | None) -> str | None:
    """Why the kernels do not compute a model of this shape; None where they do."""
    if not architecture.family.is_encoder:
        return f"{architecture.family.value} is not an encoder"
    if architecture.activation is not Activation.GELU:
        return f"the activation {architecture.activation.value} is not gelu"
    if architecture.hidden % PANEL:
        return f"its hidden size {architecture.hidden} is no multiple of {PANEL}"
    if architecture.heads * architecture.head_dim != architecture.hidden:
        return f"its {architecture.heads} heads do not share {architecture.hidden} evenly"
    if min(architecture.layers, architecture.intermediate, architecture.positions) < 1:
        return "its sizes must be positive"
    if pooling not in _POOLINGS:
        return "its pooling is not known"
    return None


def floats(weights: Weights, name: str, *shape: int) -> Array:
    """A weight of exactly this shape, as float32. Raises KeyError, ConfigurationError."""
    return as_float32(_exactly(weights, name, *shape))


def _exactly(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of exactly this shape. Raises KeyError, ConfigurationError."""
    view = _of_shape(weights, name, *shape)
    if view.shape != shape:
        raise _of_another_shape(name, view, shape)
    return view


def _of_shape(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of this shape, or of more rows. Raises KeyError, ConfigurationError."""
    view = weights[name]
    if len(view.shape) != len(shape) or view.shape[1:] != shape[1:] or view.shape[0] < shape[0]:
        raise _of_another_shape(name, view, shape)
    return view


def _of_another_shape(name: str, view: TensorView, shape: tuple[int, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"the weight {name} has the shape {list(view.shape)} where config.json asks for {list(shape)}"
    )


def pack(parts: Sequence[TensorView], products: str, by: Array | None = None) -> Array:
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
            _STORED[part.dtype],
            _address(by),
            start,
        )
        start += size
    return packed


def _address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def _padded(view: TensorView, shape: tuple[int, ...], axis: int, zeros: int) -> TensorView:
    """A matrix seen in a shape that splits one of its sides, with zeros behind one axis: [N, K] of another N or K."""
    if not zeros:
        return view
    bits = np.frombuffer(view.data, np.uint32 if view.dtype is DType.F32 else np.uint16).reshape(shape)
    padded = np.pad(bits, [(0, zeros if i == axis else 0) for i in range(len(shape))])
    padded = (
        padded.reshape(view.shape[0], -1) if axis == len(shape) - 1 else padded.reshape(-1, view.shape[1])
    )
    return TensorView(view.dtype, padded.shape, padded.data.cast("B"))


def _round_up(size: int) -> int:
    return -(-size // PANEL) * PANEL


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
