"""The two networks, over packed sequences: encoders (BERT, XLM-RoBERTa) and decoders (Qwen3, Mistral, Llama).

Where one token of each sequence becomes the vector, the last layer computes its query, its projections and its
feed-forward for those tokens only.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from vectoll.adapters.checkpoints import Activation, Architecture, inverse_frequencies
from vectoll.adapters.checkpoints import Attention as Sight
from vectoll.adapters.engines.torch.attention import Attention
from vectoll.adapters.engines.torch.kernels import Kernels
from vectoll.adapters.engines.torch.packing import PackedBatch
from vectoll.adapters.engines.torch.weights import (
    CheckpointTensors,
    DecoderLayer,
    EncoderLayer,
    Norm,
    decoder_layer,
    encoder_layer,
)
from vectoll.domain.errors import ConfigurationError

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
    Activation.RELU: F.relu,
    Activation.SILU: F.silu,
}


class Network(Protocol):
    """Token ids to states."""

    @property
    def vocab(self) -> int:
        """Rows of the token embedding."""
        ...

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """The final states: ``[n, hidden]`` of ``batch.rows``, or ``[T, hidden]`` of all tokens."""
        ...


class Encoder:
    """BERT and XLM-RoBERTa."""

    def __init__(
        self, architecture: Architecture, tensors: CheckpointTensors, attention: Attention, kernels: Kernels
    ) -> None:
        self._shape = architecture
        self._attention = attention
        self._kernels = kernels
        self._activation = _ACTIVATIONS[architecture.activation]
        self._words = tensors.tensor("embeddings.word_embeddings.weight")
        self._norm = tensors.norm("embeddings.LayerNorm")
        # Every token is of type 0: its embedding joins the words'.
        types = tensors.tensor("embeddings.token_type_embeddings.weight")
        self._positions = tensors.tensor("embeddings.position_embeddings.weight")
        self._type = types[0]
        self._layers = [encoder_layer(tensors, index) for index in range(architecture.layers)]

    @property
    def vocab(self) -> int:
        """See ``Network``."""
        return len(self._words)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """See ``Network``."""
        x = F.embedding(batch.ids, self._words) + self._type
        x = self._add_norm(x, F.embedding(batch.positions, self._positions), self._norm)
        for layer in self._layers[:-1]:
            x = self._layer(layer, x, batch, rows=None)
        return self._layer(self._layers[-1], x, batch, rows=batch.rows)

    def _layer(
        self, layer: EncoderLayer, x: torch.Tensor, batch: PackedBatch, rows: torch.Tensor | None
    ) -> torch.Tensor:
        q, k, v = project_qkv(x, layer.qkv, self._shape, rows)
        segments = batch.segments if rows is None else batch.row_segments
        seen = self._attention(q, k, v, segments, batch.segments, behind=-1, ahead=-1).flatten(1)
        x = x if rows is None else x[rows]
        x = self._add_norm(F.linear(seen, *layer.out), x, layer.attention_norm)
        return self._add_norm(
            F.linear(self._activation(F.linear(x, *layer.up)), *layer.down), x, layer.output_norm
        )

    def _add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        return self._kernels.add_layer_norm(x, residual, *norm, self._shape.norm_eps)


class Decoder:
    """Qwen3, Mistral and Llama, causal or bidirectional."""

    def __init__(
        self, architecture: Architecture, tensors: CheckpointTensors, attention: Attention, kernels: Kernels
    ) -> None:
        self._shape = architecture
        self._attention = attention
        self._kernels = kernels
        if architecture.activation is not Activation.SILU:
            raise ConfigurationError(
                f"the torch engine runs decoders with silu, not {architecture.activation}"
            )
        self._words = tensors.tensor("embed_tokens.weight")
        has_head_norms = architecture.family.has_head_norms
        self._layers = [
            decoder_layer(tensors, index, has_head_norms=has_head_norms)
            for index in range(architecture.layers)
        ]
        self._final_norm = tensors.norm("norm")
        assert architecture.rope is not None  # every decoder has one
        frequencies = inverse_frequencies(architecture.rope, architecture.head_dim)
        self._frequencies = torch.tensor(frequencies, dtype=torch.float32, device=self._words.device)
        window = architecture.sliding_window
        self._behind = -1 if window is None else window - 1
        self._ahead = 0 if architecture.attention is Sight.CAUSAL else -1

    @property
    def vocab(self) -> int:
        """See ``Network``."""
        return len(self._words)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """See ``Network``."""
        angles = batch.positions[:, None] * self._frequencies
        turns = angles.cos(), angles.sin()
        x = F.embedding(batch.ids, self._words)
        normed = self._kernels.rms_norm(x, self._layers[0].attention_norm[0], self._shape.norm_eps)
        following = [layer.attention_norm for layer in self._layers[1:]] + [self._final_norm]
        for layer, next_norm in zip(self._layers, following, strict=True):
            rows = batch.rows if next_norm is self._final_norm else None
            seen = self._attend(layer, normed, turns, batch, rows)
            x = x if rows is None else x[rows]
            x, normed = self._add_norm(F.linear(seen, *layer.out), x, layer.feed_forward_norm)
            inner = self._kernels.swiglu(F.linear(normed, *layer.gate_up))
            x, normed = self._add_norm(F.linear(inner, *layer.down), x, next_norm)
        return normed

    def _attend(
        self,
        layer: DecoderLayer,
        normed: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        batch: PackedBatch,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        q, k, v = project_qkv(normed, layer.qkv, self._shape, rows)
        q_turns = turns if rows is None else (turns[0][rows], turns[1][rows])
        q = self._turn(q, layer.q_norm, q_turns)
        k = self._turn(k, layer.k_norm, turns)
        segments = batch.segments if rows is None else batch.row_segments
        return self._attention(
            q, k, v, segments, batch.segments, behind=self._behind, ahead=self._ahead
        ).flatten(1)

    def _turn(
        self, x: torch.Tensor, norm: Norm | None, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        if norm is None:
            return self._kernels.rotate(x, *turns)
        return self._kernels.norm_rotate(x, norm[0], self._shape.norm_eps, *turns)

    def _add_norm(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Norm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._kernels.add_rms_norm(x, residual, norm[0], self._shape.norm_eps)


def project_qkv(
    x: torch.Tensor,
    qkv: tuple[torch.Tensor, torch.Tensor | None],
    shape: Architecture,
    rows: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries ``[Tq, heads, head_dim]``, of ``rows`` only if given, keys and values ``[T, kv_heads, head_dim]``."""
    heads, kv_heads = shape.heads, shape.kv_heads
    if rows is None:
        all_heads = F.linear(x, *qkv).unflatten(1, (-1, shape.head_dim))
        q, k, v = all_heads.split([heads, kv_heads, kv_heads], dim=1)
        return q, k, v
    weight, bias = qkv
    cut = heads * shape.head_dim
    q = F.linear(x[rows], weight[:cut], None if bias is None else bias[:cut])
    kv = F.linear(x, weight[cut:], None if bias is None else bias[cut:]).unflatten(1, (-1, shape.head_dim))
    k, v = kv.split([kv_heads, kv_heads], dim=1)
    return q.unflatten(1, (heads, shape.head_dim)), k, v
