"""Rotary position embedding: queries and keys turned by angles that grow with the position."""

from dataclasses import dataclass

import numpy as np

from vectoll.adapters.checkpoints import Architecture, inverse_frequencies
from vectoll.adapters.engines.openvino.layers import Node, axes
from vectoll.adapters.engines.openvino.runtime import ops


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of the batch's positions, each [R, 1, S, D]."""

    cosines: Node
    sines: Node
    head_dim: int

    @classmethod
    def create(cls, architecture: Architecture, positions: Node) -> "Rotation":
        """Tables made in float64: an angle computed in bfloat16 is off by whole turns at high positions."""
        assert architecture.rope
        frequencies = np.array(inverse_frequencies(architecture.rope, architecture.head_dim))
        angles = np.outer(np.arange(architecture.positions), frequencies)
        cosines, sines = (_look_up(table, positions) for table in (np.cos(angles), np.sin(angles)))
        return cls(cosines, sines, architecture.head_dim)

    def rotate(self, x: Node) -> Node:
        """[R, heads, S, D] → the same, the halves of D turned against each other."""
        half = self.head_dim // 2
        first, second = ops.variadic_split(x, ops.constant(np.int32(3)), axes(half, half)).outputs()
        turned = ops.concat([ops.negative(second), first], -1)
        return ops.add(ops.multiply(x, self.cosines), ops.multiply(turned, self.sines))


def _look_up(table: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", positions: Node) -> Node:
    """float32 [R, 1, S, D]: each half of the head reads the same angles."""
    half = ops.gather(ops.constant(table.astype(np.float32)), positions, ops.constant(np.int32(0)))
    return ops.unsqueeze(ops.concat([half, half], -1), axes(1))
