"""BERT and XLM-RoBERTa: learned positions, post-layer-norm blocks, full attention."""

from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Architecture, Weights
from vectoll.adapters.engines.openvino.layers import (
    Inputs,
    Node,
    activate,
    attend,
    axes,
    full_mask,
    layer_norm,
    linear,
    model,
    pool,
    split_heads,
    weight,
)
from vectoll.adapters.engines.openvino.runtime import ops
from vectoll.adapters.engines.tensors import as_float32
from vectoll.domain.catalog import Pooling


def build_encoder(architecture: Architecture, weights: Weights, pooling: Pooling) -> Any:
    """The whole graph, from token ids to normalised vectors."""
    inputs = Inputs.create()
    states = _embed(inputs, architecture, weights.under("embeddings."))
    mask = full_mask(inputs)
    for index in range(architecture.layers):
        states = _block(states, mask, architecture, weights.under(f"encoder.layer.{index}."))
    return model(inputs, pool(states, inputs, pooling))


def _embed(inputs: Inputs, architecture: Architecture, weights: Weights) -> Node:
    """Words, positions and the one token type, summed and normalised. What is read beyond a table is no error to
    OpenVINO, but a row of nothing.
    """
    words = ops.gather(weight(weights["word_embeddings.weight"]), inputs.ids, axes(0))
    first = architecture.position_offset if architecture.padding_id is None else architecture.padding_id
    table = (
        as_float32(weights["position_embeddings.weight"])[first:]
        + as_float32(weights["token_type_embeddings.weight"])[0]
    )
    positions = ops.gather(
        ops.constant(np.ascontiguousarray(table)), inputs.positions, ops.constant(np.int32(0))
    )
    return layer_norm(ops.add(words, positions), weights, "LayerNorm", architecture.norm_eps)


def _block(states: Node, mask: Node, architecture: Architecture, weights: Weights) -> Node:
    heads, head_dim, eps = architecture.heads, architecture.head_dim, architecture.norm_eps
    names = ("attention.self.query", "attention.self.key", "attention.self.value")
    query, key, value = (split_heads(linear(states, weights, name), heads, head_dim) for name in names)
    seen = linear(attend(query, key, value, mask), weights, "attention.output.dense")
    states = layer_norm(ops.add(seen, states), weights, "attention.output.LayerNorm", eps)
    inner = activate(linear(states, weights, "intermediate.dense"), architecture.activation)
    return layer_norm(
        ops.add(linear(inner, weights, "output.dense"), states), weights, "output.LayerNorm", eps
    )
