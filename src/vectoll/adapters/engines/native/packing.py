"""An encoder's weights as the kernels read them: ``kernels/encoder.h`` says how."""

import ctypes
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Activation, Architecture, DType, TensorView, Weights
from vectoll.adapters.engines.native.library import Encoder, Layer
from vectoll.adapters.engines.tensors import as_float32
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

Array = np.ndarray[Any, np.dtype[Any]]

PANEL = 32
"""Columns of a panel of weights. Sizes of heads and of the feed-forward block are rounded up to it, with zeros."""
ALIGNMENT = 64

_WORDS = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}
_POOLINGS = {Pooling.CLS: 0, Pooling.MEAN: 1, Pooling.LAST: 2}


class PackedEncoder:
    """The C structure, and the memory that it points to. The words alone stay in the checkpoint's file.

    Raises KeyError for a weight that is not there, ConfigurationError for one of another shape than config.json says:
    the kernels believe what they are told.
    """

    def __init__(self, architecture: Architecture, weights: Weights, pooling: Pooling, *, bf16: bool) -> None:
        self._architecture = architecture
        self._bf16 = bf16
        self._kept: list[object] = []
        self._head_dim = _round_up(architecture.head_dim)
        self._intermediate = _round_up(architecture.intermediate)
        self._layers = (Layer * architecture.layers)(
            *(self._layer(weights.under(f"encoder.layer.{i}.")) for i in range(architecture.layers))
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
            _WORDS[words.dtype],
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

    def _layer(self, weights: Weights) -> Layer:
        shape = self._architecture
        heads, hidden, head_dim, inner = shape.heads, shape.hidden, shape.head_dim, shape.intermediate
        width = heads * head_dim
        rest, inner_rest = self._head_dim - head_dim, self._intermediate - inner
        names = [f"attention.self.{name}" for name in ("query", "key", "value")]
        qkv = [floats(weights, f"{n}.weight", width, hidden).reshape(heads, head_dim, hidden) for n in names]
        qkv_bias = [floats(weights, f"{n}.bias", width).reshape(heads, head_dim) for n in names]
        seen = floats(weights, "attention.output.dense.weight", hidden, width).reshape(
            hidden, heads, head_dim
        )
        up = floats(weights, "intermediate.dense.weight", inner, hidden)
        down = floats(weights, "output.dense.weight", hidden, inner)
        up_bias = floats(weights, "intermediate.dense.bias", inner)
        return Layer(
            self._matrix(np.pad(np.concatenate(qkv), ((0, 0), (0, rest), (0, 0))).reshape(-1, hidden)),
            self._matrix(np.pad(seen, ((0, 0), (0, 0), (0, rest))).reshape(hidden, -1)),
            self._matrix(np.pad(up, ((0, inner_rest), (0, 0)))),
            self._matrix(np.pad(down, ((0, 0), (0, inner_rest)))),
            self._keep(aligned_copy(np.pad(np.concatenate(qkv_bias), ((0, 0), (0, rest))))),
            self._vector(weights, "attention.output.dense.bias", hidden),
            self._keep(aligned_copy(np.pad(up_bias, (0, inner_rest)))),
            self._vector(weights, "output.dense.bias", hidden),
            self._vector(weights, "attention.output.LayerNorm.weight", hidden),
            self._vector(weights, "attention.output.LayerNorm.bias", hidden),
            self._vector(weights, "output.LayerNorm.weight", hidden),
            self._vector(weights, "output.LayerNorm.bias", hidden),
        )

    def _matrix(self, weight: Array) -> int:
        return self._keep(pack_matrix(weight, bf16=self._bf16))

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
    view = _of_shape(weights, name, *shape)
    if view.shape != shape:
        raise _of_another_shape(name, view, shape)
    return as_float32(view)


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


def pack_matrix(weight: Array, *, bf16: bool) -> Array:
    """[N, K] → [N / 32, K / 2, 32, 2] in bf16 or [N / 32, K, 32] in f32: a dword per column and row of a panel."""
    columns, depth = weight.shape
    if bf16:
        pairs = to_bf16(weight).reshape(columns // PANEL, PANEL, depth // 2, 2)
        return aligned_copy(pairs.transpose(0, 2, 1, 3))
    return aligned_copy(weight.reshape(columns // PANEL, PANEL, depth).transpose(0, 2, 1))


def _round_up(size: int) -> int:
    return -(-size // PANEL) * PANEL


def to_bf16(values: Array) -> Array:
    """float32 → the nearest bfloat16, ties to even, as uint16."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded


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
