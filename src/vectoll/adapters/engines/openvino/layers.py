"""Operations that every family's graph is made of.

Shapes: B sequences of T tokens in R rows of S places, H hidden size, N heads, K key-value heads, D head size. Nodes are
float32 in the graph; OpenVINO computes the inner ones in bfloat16 where the engine asks for it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import Activation, DType, TensorView, Weights
from vectoll.adapters.engines.openvino.runtime import ops, ov
from vectoll.adapters.engines.tensors import as_float32
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


def weight(view: TensorView) -> Node:
    """A large constant that shares the file's memory and keeps its element type; float32 to what uses it."""
    if view.dtype is DType.F32:
        return ops.constant(as_float32(view), shared_memory=True)
    element, raw = {DType.F16: (ov.Type.f16, np.float16), DType.BF16: (ov.Type.bf16, np.uint16)}[view.dtype]
    data = np.frombuffer(view.data, raw).reshape(view.shape)
    widened = ops.convert(ops.constant(ov.Tensor(data, ov.Shape(view.shape), element)), "f32")
    # Without this mark the compiler widens the constant at once, to twice its size.
    widened.get_rt_info()["decompression_0"] = True
    return widened


@dataclass(frozen=True, slots=True)
class Inputs:
    """The graph's inputs, all int32: see ``packing.PackedBatch``."""

    ids: Node
    """[R, S]"""
    owners: Node
    """[R, S]"""
    query_owners: Node
    """[R, S], or [R, 1] where every row has one sequence: a mask of one row each then serves all its queries."""
    positions: Node
    """[R, S]"""
    places: Node
    """[T]"""
    lengths: Node
    """[B]"""

    @classmethod
    def create(cls) -> "Inputs":
        """Fresh parameters of any size."""
        rows = ("input_ids", "owners", "query_owners", "positions")
        return cls(
            *(ops.parameter([-1, -1], np.int32, name) for name in rows),
            *(ops.parameter([-1], np.int32, name) for name in ("places", "lengths")),
        )

    @property
    def nodes(self) -> list[Node]:
        """In the order of ``PackedBatch.inputs``."""
        return [self.ids, self.owners, self.query_owners, self.positions, self.places, self.lengths]


def linear(x: Node, weights: Weights, name: str) -> Node:
    """``x @ W.T + b`` over the last axis."""
    product = ops.matmul(x, weight(weights[f"{name}.weight"]), False, True)
    if f"{name}.bias" not in weights:
        return product
    bias = as_float32(weights[f"{name}.bias"])
    return ops.add(product, ops.constant(bias.reshape(1, 1, -1)))


def layer_norm(x: Node, weights: Weights, name: str, eps: float) -> Node:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift."""
    normalised = ops.mvn(x, axes(-1), True, eps, "inside_sqrt")
    scale, shift = (as_float32(weights[f"{name}.{part}"]).reshape(1, 1, -1) for part in ("weight", "bias"))
    return ops.add(ops.multiply(normalised, ops.constant(scale)), ops.constant(shift))


def rms_norm(x: Node, weights: Weights, name: str, eps: float) -> Node:
    """Scale the last axis to a root mean square of 1, then by the weight. Written as OpenVINO fuses it."""
    mean = ops.reduce_mean(ops.power(x, scalar(2.0)), axes(-1), True)
    inverse = ops.divide(scalar(1.0), ops.sqrt(ops.add(mean, scalar(eps))))
    return ops.multiply(ops.multiply(x, inverse), ops.constant(as_float32(weights[f"{name}.weight"])))


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


def full_mask(inputs: Inputs) -> Node:
    """What to add to attention scores so that a token sees its own sequence only: float32 [R, 1, S or 1, S]."""
    return _as_bias(_is_own(inputs))


def causal_mask(inputs: Inputs, window: int | None) -> Node:
    """What to add to attention scores so that a token sees its own sequence's past only, at most ``window`` tokens
    with itself: float32 [R, 1, S, S].
    """
    query, key = ops.unsqueeze(inputs.positions, axes(2)), ops.unsqueeze(inputs.positions, axes(1))
    is_seen = ops.logical_and(_is_own(inputs), ops.less_equal(key, query))
    if window is not None:
        is_seen = ops.logical_and(is_seen, ops.less(ops.subtract(query, key), ops.constant(np.int32(window))))
    return _as_bias(is_seen)


def _is_own(inputs: Inputs) -> Node:
    """boolean [R, S or 1, S]: whether a query and a key are of one sequence."""
    return ops.equal(ops.unsqueeze(inputs.query_owners, axes(2)), ops.unsqueeze(inputs.owners, axes(1)))


def _as_bias(is_seen: Node) -> Node:
    return ops.unsqueeze(ops.select(is_seen, scalar(0.0), ops.constant(MASKED)), axes(1))


def attend(query: Node, key: Node, value: Node, mask: Node) -> Node:
    """Softmax attention: [R, N, S, D] three times and a mask that broadcasts to [R, N, S, S] → [R, S, N * D]."""
    seen = ops.scaled_dot_product_attention(query, key, value, mask, causal=False)
    merged = ops.transpose(seen, axes(0, 2, 1, 3))
    shape = merged.get_output_partial_shape(0)
    return ops.reshape(merged, axes(0, 0, shape[2].get_length() * shape[3].get_length()), True)


def split_heads(x: Node, heads: int, head_dim: int) -> Node:
    """[R, S, heads * D] → [R, heads, S, D]."""
    return ops.transpose(ops.reshape(x, axes(0, 0, heads, head_dim), True), axes(0, 2, 1, 3))


def repeat_heads(x: Node, times: int) -> Node:
    """[R, K, S, D] → [R, K * times, S, D]: each key-value head serves ``times`` query heads in a row."""
    if times == 1:
        return x
    shape = x.get_output_partial_shape(0)
    heads, head_dim = shape[1].get_length(), shape[3].get_length()
    repeated = ops.broadcast(
        ops.unsqueeze(x, axes(2)), axes(1, 1, times, 1, 1), broadcast_spec="BIDIRECTIONAL"
    )
    return ops.reshape(repeated, axes(0, heads * times, -1, head_dim), True)


def pool(states: Node, inputs: Inputs, pooling: Pooling) -> Node:
    """[R, S, H] → L2-normalised [B, H]. Padding plays no part."""
    hidden = states.get_output_partial_shape(0)[2].get_length()
    tokens = ops.reshape(states, axes(-1, hidden), False)
    starts = ops.cum_sum(inputs.lengths, ops.constant(np.int32(0)), exclusive=True)
    match pooling:
        case Pooling.CLS:
            vector = _rows_at(tokens, inputs, starts)
        case Pooling.LAST:
            ends = ops.add(starts, ops.subtract(inputs.lengths, ops.constant(np.int32(1))))
            vector = _rows_at(tokens, inputs, ends)
        case Pooling.MEAN:
            # Sums of rows, not a product of matrices: those would be computed in bf16.
            vector = ops.embedding_bag_offsets(tokens, inputs.places, starts, reduction="mean")
        case Pooling.UPSTREAM:
            raise ConfigurationError("pooling: an upstream's own is not one that can be computed here")
    return ops.normalize_l2(vector, axes(1), 1e-12, "max")


def _rows_at(tokens: Node, inputs: Inputs, indices: Node) -> Node:
    """[B, H]: the states of the tokens that are ``indices`` among all tokens."""
    first_axis = ops.constant(np.int32(0))
    return ops.gather(tokens, ops.gather(inputs.places, indices, first_axis), first_axis)


def model(inputs: Inputs, vectors: Node) -> Any:
    """The finished graph: ``Inputs.nodes`` in, [B, H] out."""
    return ov.Model([ops.result(vectors)], inputs.nodes, "vectoll")
