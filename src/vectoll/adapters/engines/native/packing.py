"""An encoder's weights as the kernels read them: ``kernels/encoder.h`` says how."""

import ctypes
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Activation, Architecture, DType, TensorView, Weights
from vectoll.adapters.engines.native.library import Encoder, Layer
from vectoll.domain.catalog import Pooling

Array = np.ndarray[Any, np.dtype[Any]]

PANEL = 32
"""Columns of a panel of weights. Sizes of heads and of the feed-forward block are rounded up to it, with zeros."""
ALIGNMENT = 64

_WORDS = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}
_POOLINGS = {Pooling.CLS: 0, Pooling.MEAN: 1, Pooling.LAST: 2}


class PackedEncoder:
    """The C structure, and the memory that it points to. ``words`` alone stays in the checkpoint's file."""

    def __init__(self, architecture: Architecture, weights: Weights, pooling: Pooling, *, bf16: bool) -> None:
        self._bf16 = bf16
        self._kept: list[object] = []
        self._head_dim = _round_up(architecture.head_dim)
        self._intermediate = _round_up(architecture.intermediate)
        embeddings = weights.under("embeddings.")
        words = embeddings["word_embeddings.weight"]
        self._layers = (Layer * architecture.layers)(
            *(
                self._layer(architecture, weights.under(f"encoder.layer.{i}."))
                for i in range(architecture.layers)
            )
        )
        first = architecture.position_offset
        places = (
            floats(embeddings["position_embeddings.weight"])[first:]
            + floats(embeddings["token_type_embeddings.weight"])[0]
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
            self._vector(places),
            self._vector(floats(embeddings["LayerNorm.weight"])),
            self._vector(floats(embeddings["LayerNorm.bias"])),
            ctypes.addressof(self._layers),
        )

    def _layer(self, architecture: Architecture, weights: Weights) -> Layer:
        heads, hidden, head_dim = architecture.heads, architecture.hidden, architecture.head_dim
        rest, inner_rest = self._head_dim - head_dim, self._intermediate - architecture.intermediate
        own = [weights.under(f"attention.self.{name}.") for name in ("query", "key", "value")]
        qkv = [floats(w["weight"]).reshape(heads, head_dim, hidden) for w in own]
        qkv_bias = [floats(w["bias"]).reshape(heads, head_dim) for w in own]
        out = weights.under("attention.output.")
        seen = floats(out["dense.weight"]).reshape(hidden, heads, head_dim)
        up, down = weights.under("intermediate.dense."), weights.under("output.")
        return Layer(
            self._matrix(np.pad(np.concatenate(qkv), ((0, 0), (0, rest), (0, 0))).reshape(-1, hidden)),
            self._matrix(np.pad(seen, ((0, 0), (0, 0), (0, rest))).reshape(hidden, -1)),
            self._matrix(np.pad(floats(up["weight"]), ((0, inner_rest), (0, 0)))),
            self._matrix(np.pad(floats(down["dense.weight"]), ((0, 0), (0, inner_rest)))),
            self._vector(np.pad(np.concatenate(qkv_bias), ((0, 0), (0, rest)))),
            self._vector(floats(out["dense.bias"])),
            self._vector(np.pad(floats(up["bias"]), (0, inner_rest))),
            self._vector(floats(down["dense.bias"])),
            self._vector(floats(out["LayerNorm.weight"])),
            self._vector(floats(out["LayerNorm.bias"])),
            self._vector(floats(down["LayerNorm.weight"])),
            self._vector(floats(down["LayerNorm.bias"])),
        )

    def _matrix(self, weight: Array) -> int:
        return self._keep(pack_matrix(weight, bf16=self._bf16))

    def _vector(self, values: Array) -> int:
        return self._keep(aligned_copy(values.astype(np.float32, copy=False)))

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
    if pooling not in _POOLINGS:
        return "its pooling is not known"
    return None


def pack_matrix(weight: Array, *, bf16: bool) -> Array:
    """[N, K] → [N / 32, K / 2, 32, 2] in bf16 or [N / 32, K, 32] in f32: a dword per column and row of a panel."""
    columns, depth = weight.shape
    if bf16:
        pairs = to_bf16(weight).reshape(columns // PANEL, PANEL, depth // 2, 2)
        return aligned_copy(pairs.transpose(0, 2, 1, 3))
    return aligned_copy(weight.reshape(columns // PANEL, PANEL, depth).transpose(0, 2, 1))


def _round_up(size: int) -> int:
    return -(-size // PANEL) * PANEL


def floats(view: TensorView) -> Array:
    """A tensor as float32: a view where it is one already, else a converted copy."""
    if view.dtype is DType.F32:
        return np.frombuffer(view.data, np.float32).reshape(view.shape)
    if view.dtype is DType.F16:
        return np.frombuffer(view.data, np.float16).reshape(view.shape).astype(np.float32)
    bits = np.frombuffer(view.data, np.uint16).reshape(view.shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)


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
