"""The sizes and switches of a text tower, read from config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Config = Mapping[str, Any]
"""A parsed config.json. Reading may raise KeyError, TypeError or ValueError: the caller names the file."""


class Family(StrEnum):
    """The graph that an engine builds."""

    BERT = "bert"
    XLM_ROBERTA = "xlm-roberta"
    QWEN3 = "qwen3"
    MISTRAL = "mistral"
    LLAMA = "llama"

    @property
    def is_encoder(self) -> bool:
        """Whether it is of the BERT kind: learned positions, layer norm after each block, biases."""
        return self in (Family.BERT, Family.XLM_ROBERTA)

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalised head by head."""
        return self is Family.QWEN3


class Attention(StrEnum):
    """What a token sees: everything, or itself and what came before."""

    FULL = "full"
    CAUSAL = "causal"


class Activation(StrEnum):
    """The non-linearity of the feed-forward block. ``gelu`` is the exact one, with erf."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SILU = "silu"


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """The frequency scaling of Llama 3.1 and later."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding over whole heads, halves rotated against each other."""

    theta: float
    scaling: Llama3Scaling | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One text tower. Encoders have learned positions and no ``rope``; decoders the other way round."""

    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int
    """Longest input in tokens that the position scheme covers."""
    norm_eps: float
    activation: Activation
    attention: Attention
    position_offset: int = 0
    """Row of the position table that the first token reads (XLM-RoBERTa: padding id + 1)."""
    rope: Rope | None = None
    attention_bias: bool = False
    """Whether a decoder's attention has biases; an encoder's always has."""
    mlp_bias: bool = False
    """Likewise its feed-forward block."""
    sliding_window: int | None = None
    """A causal token sees itself and the ``sliding_window - 1`` tokens before it; None is all of them."""

    @property
    def padding_id(self) -> int | None:
        """The padding token of a family that gives it no position of its own, wherever in a text it stands: it reads
        the row before the first token's. None in other families.
        """
        return self.position_offset - 1 if self.position_offset else None

    @property
    def matrix_parameters(self) -> int:
        """Weights that every token is multiplied with: all but the embedding tables and the vectors."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        feed_forward = (2 if self.family.is_encoder else 3) * self.hidden * self.intermediate
        return self.layers * (attention + feed_forward)


_FAMILIES = {
    "bert": Family.BERT,
    "xlm-roberta": Family.XLM_ROBERTA,
    "qwen3": Family.QWEN3,
    "mistral": Family.MISTRAL,
    "llama": Family.LLAMA,
    "llama_bidirec": Family.LLAMA,
}
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
}
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "positions")
"""The fields by which engines allocate and read memory."""
_VISION_TYPES = ("llama_nemotron_vl",)
"""Model types whose text tower is bidirectional and described below ``llm_config`` or ``text_config``."""
_MISTRAL_WINDOW = 4096
"""Of a configuration that does not name it: transformers' default."""
_KNOWN_CODE = ("llama_bidirec", *_VISION_TYPES)
"""Model types whose code is in their repositories, not in a library, and whose text tower is one that we know."""


def text_tower(config: Config) -> Config:
    """The part of config.json that describes the text tower: the whole of it, unless the model also sees.

    Raises ValueError where the model is code of its repository's own, unless we know what that computes.
    """
    own_code = (config.get("auto_map") or {}).get("AutoModel")
    _require(
        own_code is None or config.get("model_type") in _KNOWN_CODE,
        f"config.json names code of its own ({own_code}), which is never run: what it computes is not known",
    )
    nested = config.get("llm_config") or config.get("text_config")
    if nested is None:
        return config
    return {**nested, "is_causal": False} if config.get("model_type") in _VISION_TYPES else nested


def read_architecture(tower: Config) -> Architecture:
    """Raises ValueError for a family or a feature that no engine computes."""
    model_type = tower["model_type"]
    family = _FAMILIES.get(model_type)
    if family is None:
        raise ValueError(f"the model type {model_type!r} is not one of {', '.join(_FAMILIES)}")
    architecture = _encoder(family, tower) if family.is_encoder else _decoder(family, tower)
    sizes = [getattr(architecture, name) for name in _SIZES]
    _require(all(type(size) is int and size > 0 for size in sizes), "sizes must be positive integers")
    _require(architecture.position_offset >= 0, "the padding id cannot be negative")
    _require_heads(architecture)
    return architecture


def _require_heads(shape: Architecture) -> None:
    _require(shape.heads % shape.kv_heads == 0, "heads must be a multiple of key-value heads")
    if shape.family.is_encoder:
        is_shared = shape.heads * shape.head_dim == shape.hidden
        _require(is_shared, f"its {shape.heads} heads do not share {shape.hidden} evenly")
    else:
        _require(shape.head_dim % 2 == 0, f"its heads of {shape.head_dim} have no halves")


def _encoder(family: Family, tower: Config) -> Architecture:
    _require(tower.get("position_embedding_type", "absolute") == "absolute", "positions must be absolute")
    _require(not tower.get("is_decoder"), "an encoder cannot be a decoder")
    offset = tower["pad_token_id"] + 1 if family is Family.XLM_ROBERTA else 0
    heads = tower["num_attention_heads"]
    return Architecture(
        family=family,
        layers=tower["num_hidden_layers"],
        hidden=tower["hidden_size"],
        heads=heads,
        kv_heads=heads,
        head_dim=tower["hidden_size"] // heads,
        intermediate=tower["intermediate_size"],
        vocab=tower["vocab_size"],
        positions=tower["max_position_embeddings"] - offset,
        norm_eps=float(tower["layer_norm_eps"]),
        activation=_activation(tower),
        attention=Attention.FULL,
        position_offset=offset,
    )


def _decoder(family: Family, tower: Config) -> Architecture:
    heads = tower["num_attention_heads"]
    attention = _attention(tower)
    return Architecture(
        family=family,
        layers=tower["num_hidden_layers"],
        hidden=tower["hidden_size"],
        heads=heads,
        kv_heads=tower.get("num_key_value_heads") or heads,
        head_dim=tower.get("head_dim") or tower["hidden_size"] // heads,
        intermediate=tower["intermediate_size"],
        vocab=tower["vocab_size"],
        positions=tower["max_position_embeddings"],
        norm_eps=float(tower["rms_norm_eps"]),
        activation=_activation(tower),
        attention=attention,
        rope=_rope(tower),
        attention_bias=family is not Family.MISTRAL and bool(tower.get("attention_bias")),
        mlp_bias=family is Family.LLAMA and bool(tower.get("mlp_bias")),
        sliding_window=_sliding_window(family, tower, attention),
    )


def _attention(tower: Config) -> Attention:
    is_full = (
        tower["model_type"] == "llama_bidirec"
        or not tower.get("is_causal", True)
        or tower.get("use_bidirectional_attention") is True
    )
    return Attention.FULL if is_full else Attention.CAUSAL


def _activation(tower: Config) -> Activation:
    name = tower["hidden_act"]
    _require(name in _ACTIVATIONS, f"the activation {name!r} is not supported")
    return _ACTIVATIONS[name]


def _sliding_window(family: Family, tower: Config, attention: Attention) -> int | None:
    """Mistral's, which all of its layers have. Qwen3 may have one in some layers; Llama has none, whatever is said."""
    window = (tower.get("sliding_window", _MISTRAL_WINDOW) or 0) if family is Family.MISTRAL else 0
    _require(window >= 0, "a sliding window cannot be negative")
    is_in_some = (
        tower.get("use_sliding_window")
        if family is Family.QWEN3
        else window and "full_attention" in (tower.get("layer_types") or ())
    )
    _require(not is_in_some, "sliding windows in some layers only are not supported")
    if not window or window >= tower["max_position_embeddings"]:
        return None
    _require(attention is Attention.CAUSAL, "a sliding window that looks both ways is not supported")
    return int(window)


def _rope(tower: Config) -> Rope:
    """Both spellings: ``rope_parameters`` (transformers 5), or ``rope_theta`` beside ``rope_scaling``, which wins."""
    parameters = tower.get("rope_scaling") or tower.get("rope_parameters") or {}
    theta = float(parameters.get("rope_theta") or tower["rope_theta"])
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    share = parameters.get("partial_rotary_factor") or tower.get("partial_rotary_factor") or 1
    _require(float(share) == 1, "partial rotary embeddings are not supported")
    if kind == "default":
        return Rope(theta)
    _require(kind == "llama3", f"the rotary scaling {kind!r} is not supported")
    original = parameters["original_max_position_embeddings"]
    _require(
        tower.get("original_max_position_embeddings", original) == original,
        "its two original_max_position_embeddings differ: releases of transformers read one or the other",
    )
    scaling = Llama3Scaling(
        factor=float(parameters["factor"]),
        low_freq_factor=float(parameters["low_freq_factor"]),
        high_freq_factor=float(parameters["high_freq_factor"]),
        original_positions=int(original),
    )
    return Rope(theta, scaling)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
