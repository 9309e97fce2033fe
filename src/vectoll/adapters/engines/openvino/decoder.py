"""Qwen3, Mistral and Llama: rotary positions, grouped-query attention, gated feed-forward, causal or full."""

from typing import Any

from vectoll.adapters.checkpoints import Architecture, Attention, Weights
from vectoll.adapters.engines.openvino.layers import (
    Inputs,
    Node,
    activate,
    attend,
    axes,
    causal_mask,
    full_mask,
    linear,
    model,
    pool,
    repeat_heads,
    rms_norm,
    split_heads,
    weight,
)
from vectoll.adapters.engines.openvino.rotary import Rotation
from vectoll.adapters.engines.openvino.runtime import ops
from vectoll.domain.catalog import Pooling


def build_decoder(architecture: Architecture, weights: Weights, pooling: Pooling) -> Any:
    """The whole graph, from token ids to normalised vectors. Nothing is generated and no cache is kept."""
    inputs = Inputs.create()
    states = ops.gather(weight(weights["embed_tokens.weight"]), inputs.ids, axes(0))
    rotation = Rotation.create(architecture, inputs.positions)
    if architecture.attention is Attention.CAUSAL:
        mask = causal_mask(inputs, architecture.sliding_window)
    else:
        mask = full_mask(inputs)
    for index in range(architecture.layers):
        layer = weights.under(f"layers.{index}.")
        normed = rms_norm(states, layer, "input_layernorm", architecture.norm_eps)
        states = ops.add(states, _attention(normed, mask, rotation, architecture, layer.under("self_attn.")))
        normed = rms_norm(states, layer, "post_attention_layernorm", architecture.norm_eps)
        states = ops.add(states, _feed_forward(normed, architecture, layer.under("mlp.")))
    return model(inputs, pool(rms_norm(states, weights, "norm", architecture.norm_eps), inputs, pooling))


def _attention(
    states: Node, mask: Node, rotation: Rotation, architecture: Architecture, weights: Weights
) -> Node:
    heads, kv_heads, head_dim = architecture.heads, architecture.kv_heads, architecture.head_dim
    query = split_heads(linear(states, weights, "q_proj"), heads, head_dim)
    key = split_heads(linear(states, weights, "k_proj"), kv_heads, head_dim)
    value = split_heads(linear(states, weights, "v_proj"), kv_heads, head_dim)
    if architecture.family.has_head_norms:
        query = rms_norm(query, weights, "q_norm", architecture.norm_eps)
        key = rms_norm(key, weights, "k_norm", architecture.norm_eps)
    query, key = rotation.rotate(query), rotation.rotate(key)
    groups = heads // kv_heads
    seen = attend(query, repeat_heads(key, groups), repeat_heads(value, groups), mask)
    return linear(seen, weights, "o_proj")


def _feed_forward(states: Node, architecture: Architecture, weights: Weights) -> Node:
    gate = activate(linear(states, weights, "gate_proj"), architecture.activation)
    return linear(ops.multiply(gate, linear(states, weights, "up_proj")), weights, "down_proj")
