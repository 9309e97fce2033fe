"""A text tower in memory, as the kernels read it."""

import ctypes

import numpy as np

from vectoll.adapters.checkpoints import Activation, Architecture, Attention, Weights, at_least
from vectoll.adapters.engines.native.decoder import DecoderParts
from vectoll.adapters.engines.native.encoder import EncoderParts
from vectoll.adapters.engines.native.packing import PANEL, STORED, Memory, item_bytes, round_up
from vectoll.domain.catalog import Pooling, Precision
from vectoll.kernels.library import PREFIX_BLOCK, Layer, Products, Tower

_POOLINGS = {Pooling.CLS: 0, Pooling.MEAN: 1, Pooling.LAST: 2}


class PackedTower:
    """The C structure, and the memory that it points to. The words alone stay in the checkpoint's file.

    Raises KeyError for a weight that is not there, ConfigurationError for one of another shape than config.json says:
    the kernels believe what they are told.
    """

    def __init__(
        self, architecture: Architecture, weights: Weights, pooling: Pooling, products: Products
    ) -> None:
        self._memory = memory = Memory(products)
        kind = EncoderParts if architecture.family.is_encoder else DecoderParts
        parts = kind(memory, architecture, weights)
        self._layers = (Layer * architecture.layers)(*map(parts.layer, range(architecture.layers)))
        words = at_least(weights, parts.words, architecture.vocab, architecture.hidden)
        self.tower = Tower(
            layers=architecture.layers,
            hidden=architecture.hidden,
            heads=architecture.heads,
            kv_heads=architecture.kv_heads,
            head_size=architecture.head_dim,
            head_dim=parts.head_dim,
            intermediate=round_up(architecture.intermediate),
            pooling=_POOLINGS[pooling],
            words_type=STORED[words.dtype],
            padding=-1 if architecture.padding_id is None else architecture.padding_id,
            norm_eps=architecture.norm_eps,
            score_scale=architecture.head_dim**-0.5,
            words=memory.keep(np.frombuffer(words.data, np.uint8)),
            layer=ctypes.addressof(self._layers),
            **parts.fields(),
        )

        keys_and_values = 2 * architecture.layers * architecture.kv_heads * parts.head_dim
        can_share = architecture.attention is Attention.CAUSAL and pooling is Pooling.LAST
        self.block_bytes = PREFIX_BLOCK * keys_and_values * item_bytes(products) if can_share else 0
        """Size of a block of ``struct prefix``; 0 where a token's keys and values depend on what follows it, or where
        the vector needs more than the last token."""


def unsuitable(architecture: Architecture, pooling: Pooling | None, precision: Precision) -> str | None:
    """Why the kernels do not compute a model of this shape in this precision; None where they do."""
    is_encoder = architecture.family.is_encoder
    wanted = Activation.GELU if is_encoder else Activation.SILU
    if precision is Precision.INT8 and not is_encoder:
        return "its products of bytes are for encoders"
    if architecture.activation is not wanted:
        return f"the activation {architecture.activation.value} is not {wanted.value}"
    if architecture.hidden % PANEL:
        return f"its hidden size {architecture.hidden} is no multiple of {PANEL}"
    if is_encoder and architecture.heads * architecture.head_dim != architecture.hidden:
        return f"its {architecture.heads} heads do not share {architecture.hidden} evenly"
    if not is_encoder and architecture.head_dim % 2:
        return f"its heads of {architecture.head_dim} have no halves"
    if min(architecture.layers, architecture.intermediate, architecture.positions) < 1:
        return "its sizes must be positive"
    if pooling not in _POOLINGS:
        return "its pooling is not known"
    return None
