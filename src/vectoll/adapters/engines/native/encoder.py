"""BERT and XLM-RoBERTa for the kernels: learned positions, layer norm after each block, full attention."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Architecture, TensorView, Weights, at_least, exactly
from vectoll.adapters.engines.native.packing import Array, Memory, padded, round_up
from vectoll.adapters.engines.tensors import as_float32, floats
from vectoll.kernels.library import ENCODER, Layer


class EncoderParts:
    """What a tower has of its own when it is an encoder. Methods raise KeyError and ConfigurationError."""

    words = "embeddings.word_embeddings.weight"

    def __init__(self, memory: Memory, architecture: Architecture, weights: Weights) -> None:
        self._memory = memory
        self._architecture = architecture
        self._weights = weights
        self.head_dim = round_up(architecture.head_dim)

    def fields(self) -> dict[str, Any]:
        """Fields of ``library.Tower``."""
        norm, hidden = self._weights.under("embeddings.LayerNorm."), self._architecture.hidden
        rows_before = 0 if self._architecture.padding_id is None else 1
        embeddings = self._position_embeddings(rows_before)
        return {
            "kind": ENCODER,
            "position_embeddings": self._memory.copy(embeddings) + rows_before * embeddings.strides[0],
            "norm": self._memory.vector(norm, "weight", hidden),
            "norm_bias": self._memory.vector(norm, "bias", hidden),
        }

    def _position_embeddings(self, rows_before: int) -> Array:
        """float32 [positions, hidden] with some rows before them; the one token type's is added to each."""
        hidden, first = self._architecture.hidden, self._architecture.position_offset
        rows, weights = first + self._architecture.positions, self._weights.under("embeddings.")
        embeddings = as_float32(at_least(weights, "position_embeddings.weight", rows, hidden))
        types = at_least(weights, "token_type_embeddings.weight", 1, hidden)
        summed: Array = embeddings[first - rows_before : rows] + as_float32(types)[0]
        return summed

    def layer(self, number: int) -> Layer:
        """One of the tower's layers."""
        shape, memory = self._architecture, self._memory
        heads, hidden, head_dim, inner = shape.heads, shape.hidden, shape.head_dim, shape.intermediate
        width = heads * head_dim
        rest, inner_rest = self.head_dim - head_dim, round_up(inner) - inner
        weights = self._weights.under(f"encoder.layer.{number}.")
        before = self._weights.under(f"encoder.layer.{number - 1}.output." if number else "embeddings.")
        names = [f"attention.self.{name}" for name in ("query", "key", "value")]
        qkv = [exactly(weights, f"{name}.weight", width, hidden) for name in names]
        qkv_bias = [floats(weights, f"{name}.bias", width).reshape(heads, head_dim) for name in names]
        seen = exactly(weights, "attention.output.dense.weight", hidden, width)
        up = exactly(weights, "intermediate.dense.weight", inner, hidden)
        down = exactly(weights, "output.dense.weight", hidden, inner)
        up_bias = floats(weights, "intermediate.dense.bias", inner)
        qkv_by, up_by = self._smooth(before, qkv), self._smooth(weights.under("attention.output."), [up])
        return Layer(
            qkv=memory.matrix(*(padded(view, (heads, head_dim, hidden), 1, rest) for view in qkv), by=qkv_by),
            out=memory.matrix(padded(seen, (hidden, heads, head_dim), 2, rest)),
            up=memory.matrix(padded(up, up.shape, 0, inner_rest), by=up_by),
            down=memory.matrix(padded(down, down.shape, 1, inner_rest)),
            qkv_bias=memory.copy(np.pad(np.concatenate(qkv_bias), ((0, 0), (0, rest)))),
            out_bias=memory.vector(weights, "attention.output.dense.bias", hidden),
            up_bias=memory.copy(np.pad(up_bias, (0, inner_rest))),
            down_bias=memory.vector(weights, "output.dense.bias", hidden),
            out_norm=memory.vector(weights, "attention.output.LayerNorm.weight", hidden),
            out_norm_bias=memory.vector(weights, "attention.output.LayerNorm.bias", hidden),
            down_norm=memory.vector(weights, "output.LayerNorm.weight", hidden),
            down_norm_bias=memory.vector(weights, "output.LayerNorm.bias", hidden),
            qkv_by=None if qkv_by is None else memory.copy(1 / qkv_by),
            up_by=None if up_by is None else memory.copy(1 / up_by),
        )

    def _smooth(self, norm: Weights, parts: Sequence[TensorView]) -> Array | None:
        """In int8: what weights are multiplied by, and what a layer norm gives is divided by, so that neither has
        numbers that stand out and make the steps of the rest coarse (SmoothQuant, arXiv:2211.10438, strength 1/2).

        How large an input gets is not sampled: it is what the norm's own weight and bias make of a number of size 1.
        """
        if self._memory.products != "int8":
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
