"""Operations that every family's graph is made of.

Shapes: B sequences, S positions after padding, H hidden size, N heads, K key-value heads, D head size. Nodes are
float32 in the graph; OpenVINO computes the inner ones in bfloat16 where the engine asks for it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Activation, DType, TensorView, Weights
from vectoll.adapters.engines.openvino.runtime import ops, ov
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

Node = Any
"""An OpenVINO node or output: the library ships no types."""

MASKED = np.float32(np.finfo(np.float32).min)


def axes(*values: int) -> Node:
    """A constant of integers: axes, shapes, indices."""
    return ops.constant(np.array(values, np.int32))


def scalar(value: float) -> Node:
    """A float32 constant without dimensions."""
    return ops.constant(np.float32(value))


def array(view: TensorView) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor as float32: a view where it is one already, else a converted copy. For small tensors."""
    if view.dtype is DType.F32:
        return np.frombuffer(view.data, np.float32).reshape(view.shape)
    if view.dtype is DType.F16:
        return np.frombuffer(view.data, np.float16).reshape(view.shape).astype(np.float32)
    bits = np.frombuffer(view.data, np.uint16).reshape(view.shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def weight(view: TensorView) -> Node:
    """A large constant that shares the file's memory and keeps its element type; float32 to what uses it."""
    if view.dtype is DType.F32:
        return ops.constant(array(view), shared_memory=True)
    element, raw = {DType.F16: (ov.Type.f16, np.float16), DType.BF16: (ov.Type.bf16, np.uint16)}[view.dtype]
    data = np.frombuffer(view.data, raw).reshape(view.shape)
    widened = ops.convert(ops.constant(ov.Tensor(data, ov.Shape(view.shape), element)), "f32")
    # Without this mark the compiler widens the constant at once, to twice its size.
    widened.get_rt_info()["decompression_0"] = True
    return widened


@dataclass(frozen=True, slots=True)
class Inputs:
    """The graph's inputs and what follows from them."""

    ids: Node
    """int32 [B, S], padded with anything that is a token id."""
    lengths: Node
    """int32 [B], each at least 1."""
    positions: Node
    """int32 [S]: 0, 1, 2 …"""
    is_token: Node
    """boolean [B, S]: False for padding."""

    @classmethod
    def create(cls) -> "Inputs":
        """Fresh parameters of any batch size and length."""
        ids = ops.parameter([-1, -1], np.int32, "input_ids")
        lengths = ops.parameter([-1], np.int32, "lengths")
        size = ops.gather(ops.shape_of(ids, "i32"), ops.constant(np.int32(1)), ops.constant(np.int32(0)))
        positions = ops.range(ops.constant(np.int32(0)), size, ops.constant(np.int32(1)), "i32")
        is_token = ops.less(ops.unsqueeze(positions, axes(0)), ops.unsqueeze(lengths, axes(1)))
        return cls(ids, lengths, positions, is_token)


def linear(x: Node, weights: Weights, *names: str) -> Node:
    """``x @ W.T + b`` over the last axis. Several names are one product: their rows are stacked."""
    views = [weights[f"{name}.weight"] for name in names]
    matrix = weight(views[0]) if len(views) == 1 else ops.constant(np.concatenate([array(v) for v in views]))
    product = ops.matmul(x, matrix, False, True)
    if f"{names[0]}.bias" not in weights:
        return product
    bias = np.concatenate([array(weights[f"{name}.bias"]) for name in names])
    return ops.add(product, ops.constant(bias.reshape(1, 1, -1)))


def layer_norm(x: Node, weights: Weights, name: str, eps: float) -> Node:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift."""
    normalised = ops.mvn(x, axes(-1), True, eps, "inside_sqrt")
    scale, shift = (array(weights[f"{name}.{part}"]).reshape(1, 1, -1) for part in ("weight", "bias"))
    return ops.add(ops.multiply(normalised, ops.constant(scale)), ops.constant(shift))


def rms_norm(x: Node, weights: Weights, name: str, eps: float) -> Node:
    """Scale the last axis to a root mean square of 1, then by the weight. Written as OpenVINO fuses it."""
    mean = ops.reduce_mean(ops.power(x, scalar(2.0)), axes(-1), True)
    inverse = ops.divide(scalar(1.0), ops.sqrt(ops.add(mean, scalar(eps))))
    return ops.multiply(ops.multiply(x, inverse), ops.constant(array(weights[f"{name}.weight"])))


def activate(x: Node, activation: Activation) -> Node:
    """The feed-forward block's non-linearity."""
    match activation:
        case Activation.GELU:
            return ops.gelu(x, "erf")
        case Activation.GELU_TANH:
            return ops.gelu(x, "tanh")
        case Activation.RELU:
            return ops.relu(x)
        case Activation.SILU:
            return ops.swish(x)


def padding_mask(inputs: Inputs) -> Node:
    """What to add to attention scores so that padding is not seen: float32 [B, 1, 1, S]."""
    mask = ops.select(inputs.is_token, scalar(0.0), ops.constant(MASKED))
    return ops.unsqueeze(mask, axes(1, 2))


def causal_mask(inputs: Inputs, window: int | None) -> Node:
    """What to add to attention scores so that only the past is seen, at most ``window`` tokens with oneself.

    float32 [1, 1, S, S]. Padding comes behind every token, so it is never in a token's past.
    """
    query, key = ops.unsqueeze(inputs.positions, axes(1)), ops.unsqueeze(inputs.positions, axes(0))
    is_seen = ops.less_equal(key, query)
    if window is not None:
        is_seen = ops.logical_and(is_seen, ops.less(ops.subtract(query, key), ops.constant(np.int32(window))))
    return ops.unsqueeze(ops.select(is_seen, scalar(0.0), ops.constant(MASKED)), axes(0, 1))


def attend(query: Node, key: Node, value: Node, mask: Node) -> Node:
    """Softmax attention: [B, N, S, D] three times and a mask that broadcasts to [B, N, S, S] → [B, S, N * D]."""
    seen = ops.scaled_dot_product_attention(query, key, value, mask, causal=False)
    merged = ops.transpose(seen, axes(0, 2, 1, 3))
    shape = merged.get_output_partial_shape(0)
    return ops.reshape(merged, axes(0, 0, shape[2].get_length() * shape[3].get_length()), True)


def split_heads(x: Node, heads: int, head_dim: int) -> Node:
    """[B, S, heads * D] → [B, heads, S, D]."""
    return ops.transpose(ops.reshape(x, axes(0, 0, heads, head_dim), True), axes(0, 2, 1, 3))


def repeat_heads(x: Node, times: int) -> Node:
    """[B, K, S, D] → [B, K * times, S, D]: each key-value head serves ``times`` query heads in a row."""
    if times == 1:
        return x
    shape = x.get_output_partial_shape(0)
    heads, head_dim = shape[1].get_length(), shape[3].get_length()
    repeated = ops.broadcast(
        ops.unsqueeze(x, axes(2)), axes(1, 1, times, 1, 1), broadcast_spec="BIDIRECTIONAL"
    )
    return ops.reshape(repeated, axes(0, heads * times, -1, head_dim), True)


def pool(states: Node, inputs: Inputs, pooling: Pooling) -> Node:
    """[B, S, H] → L2-normalised [B, H]. Padding plays no part."""
    match pooling:
        case Pooling.CLS:
            vector = ops.gather(states, ops.constant(np.int32(0)), ops.constant(np.int32(1)))
        case Pooling.LAST:
            last = ops.subtract(inputs.lengths, ops.constant(np.int32(1)))
            vector = ops.gather(states, ops.unsqueeze(last, axes(1)), axes(1), 1)
            vector = ops.squeeze(vector, axes(1))
        case Pooling.MEAN:
            # A sum, not a product of matrices: those would be computed in bf16.
            kept = ops.multiply(states, ops.unsqueeze(ops.convert(inputs.is_token, "f32"), axes(2)))
            total = ops.reduce_sum(kept, axes(1), False)
            vector = ops.divide(total, ops.convert(ops.unsqueeze(inputs.lengths, axes(1)), "f32"))
        case Pooling.UPSTREAM:
            raise ConfigurationError("pooling: an upstream's own is not one that can be computed here")
    return ops.normalize_l2(vector, axes(1), 1e-12, "max")


def model(inputs: Inputs, vectors: Node) -> Any:
    """The finished graph: ``input_ids`` and ``lengths`` in, [B, H] out."""
    return ov.Model([ops.result(vectors)], [inputs.ids, inputs.lengths], "vectoll")
