"""Qwen3, Mistral and Llama for the kernels: rotary positions, grouped queries, RMS norm before each block, a gate."""

from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import (
    Architecture,
    Attention,
    TensorView,
    Weights,
    exactly,
    inverse_frequencies,
)
from vectoll.adapters.engines.native.packing import Array, Memory, padded, round_up
from vectoll.adapters.engines.tensors import floats
from vectoll.kernels.library import DECODER, Layer

_HALF = 16
"""What each half of a head is rounded up to: they are turned against each other sixteen numbers at a time."""


class DecoderParts:
    """What a tower has of its own when it is a decoder. Methods raise KeyError and ConfigurationError."""

    words = "embed_tokens.weight"

    def __init__(self, memory: Memory, architecture: Architecture, weights: Weights) -> None:
        self._memory = memory
        self._architecture = architecture
        self._weights = weights
        half = architecture.head_dim // 2
        self._half_rest = round_up(half, _HALF) - half
        self._inner_rest = round_up(architecture.intermediate) - architecture.intermediate
        self.head_dim = 2 * (half + self._half_rest)

    def fields(self) -> dict[str, Any]:
        """Fields of ``library.Tower``."""
        architecture, memory = self._architecture, self._memory
        assert architecture.rope
        frequencies = np.array(inverse_frequencies(architecture.rope, architecture.head_dim))
        angles = np.outer(np.arange(architecture.positions), np.pad(frequencies, (0, self._half_rest)))
        return {
            "kind": DECODER,
            "is_causal": architecture.attention is Attention.CAUSAL,
            "window": architecture.sliding_window or 0,
            "cosines": memory.copy(np.cos(angles).astype(np.float32)),
            "sines": memory.copy(np.sin(angles).astype(np.float32)),
            "norm": memory.vector(self._weights, "layers.0.input_layernorm.weight", architecture.hidden),
            "last_norm": memory.vector(self._weights, "norm.weight", architecture.hidden),
        }

    def layer(self, number: int) -> Layer:
        """One of the tower's layers."""
        shape, memory = self._architecture, self._memory
        heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim
        hidden, inner, rest = shape.hidden, shape.intermediate, self.head_dim - shape.head_dim
        weights = self._weights.under(f"layers.{number}.")
        attention, mlp = weights.under("self_attn."), weights.under("mlp.")
        value = exactly(attention, "v_proj.weight", kv_heads * head_dim, hidden)
        out = exactly(attention, "o_proj.weight", hidden, heads * head_dim)
        down = exactly(mlp, "down_proj.weight", hidden, inner)
        value_bias = _bias(attention, "v_proj", kv_heads * head_dim).reshape(kv_heads, head_dim)
        qkv_bias = [
            self._halves(_bias(attention, "q_proj", heads * head_dim)),
            self._halves(_bias(attention, "k_proj", kv_heads * head_dim)),
            np.pad(value_bias, ((0, 0), (0, rest))).ravel(),
        ]
        is_last = number == shape.layers - 1
        after = None if is_last else f"layers.{number + 1}.input_layernorm.weight"
        return Layer(
            qkv=memory.matrix(
                self._turned(attention, "q_proj", heads),
                self._turned(attention, "k_proj", kv_heads),
                padded(value, (kv_heads, head_dim, hidden), 1, rest),
            ),
            out=memory.matrix(padded(out, (hidden, heads, head_dim), 2, rest)),
            up=memory.matrix(self._inner(mlp, "up_proj")),
            down=memory.matrix(padded(down, down.shape, 1, self._inner_rest)),
            gate=memory.matrix(self._inner(mlp, "gate_proj")),
            qkv_bias=memory.copy(np.concatenate(qkv_bias)),
            out_bias=memory.copy(_bias(attention, "o_proj", hidden)),
            up_bias=memory.copy(np.pad(_bias(mlp, "up_proj", inner), (0, self._inner_rest))),
            down_bias=memory.copy(_bias(mlp, "down_proj", hidden)),
            gate_bias=memory.copy(np.pad(_bias(mlp, "gate_proj", inner), (0, self._inner_rest))),
            out_norm=memory.vector(weights, "post_attention_layernorm.weight", hidden),
            down_norm=after and memory.vector(self._weights, after, hidden),
            query_norm=self._head_norm(attention, "q_norm.weight"),
            key_norm=self._head_norm(attention, "k_norm.weight"),
        )

    def _turned(self, attention: Weights, name: str, heads: int) -> TensorView:
        """A matrix whose outputs are turned, with the halves of its heads padded."""
        hidden, head_dim = self._architecture.hidden, self._architecture.head_dim
        view = exactly(attention, f"{name}.weight", heads * head_dim, hidden)
        return padded(view, (heads, 2, head_dim // 2, hidden), 2, self._half_rest)

    def _inner(self, mlp: Weights, name: str) -> TensorView:
        view = exactly(mlp, f"{name}.weight", self._architecture.intermediate, self._architecture.hidden)
        return padded(view, view.shape, 0, self._inner_rest)

    def _halves(self, heads: Array) -> Array:
        """[heads * head size] with the halves of the heads padded."""
        split = heads.reshape(-1, self._architecture.head_dim // 2)
        return np.pad(split, ((0, 0), (0, self._half_rest))).ravel()

    def _head_norm(self, attention: Weights, name: str) -> int | None:
        """None in a family that has none."""
        if not self._architecture.family.has_head_norms:
            return None
        return self._memory.copy(self._halves(floats(attention, name, self._architecture.head_dim)))


def _bias(weights: Weights, name: str, size: int) -> Array:
    """Zeros where the checkpoint has none."""
    bias = f"{name}.bias"
    return floats(weights, bias, size) if bias in weights else np.zeros(size, np.float32)
