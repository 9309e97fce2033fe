"""Rotary position frequencies, plain and llama3."""

import math

from vectoll.adapters.checkpoints.architecture import Llama3Scaling, Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> list[float]:
    """Radians per position of each of the ``head_dim / 2`` planes."""
    plain = [rope.theta ** (-2 * plane / head_dim) for plane in range(head_dim // 2)]
    if rope.scaling is None:
        return plain
    return [_scaled(rope.scaling, frequency) for frequency in plain]


def _scaled(scaling: Llama3Scaling, frequency: float) -> float:
    """Planes that turn seldom within the original context turn ``factor`` times slower, those between blend."""
    turns = scaling.original_positions * frequency / (2 * math.pi)
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    if turns > scaling.high_freq_factor:
        return frequency
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - share) * frequency / scaling.factor + share * frequency
