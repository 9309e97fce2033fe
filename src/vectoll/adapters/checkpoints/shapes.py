"""Which weights a text tower has, and of what shape: looked at before an engine believes what config.json says."""

from collections.abc import Iterator

from vectoll.adapters.checkpoints.architecture import Architecture
from vectoll.adapters.checkpoints.safetensors import TensorView, Weights
from vectoll.domain.errors import ConfigurationError

_Module = tuple[str, tuple[int, ...], bool]
"""Its name, the shape of its weight, and whether it has a bias."""


def check_weights(architecture: Architecture, weights: Weights) -> None:
    """Raises KeyError for a weight that is missing, and ConfigurationError for one of another shape, or a bias that
    config.json does not speak of: transformers leaves it out, and who published it has not.
    """
    hidden, position_rows = architecture.hidden, architecture.position_offset + architecture.positions
    if architecture.family.is_encoder:
        at_least(weights, "embeddings.word_embeddings.weight", architecture.vocab, hidden)
        at_least(weights, "embeddings.position_embeddings.weight", position_rows, hidden)
        at_least(weights, "embeddings.token_type_embeddings.weight", 1, hidden)
    else:
        at_least(weights, "embed_tokens.weight", architecture.vocab, hidden)
    for name, shape, has_bias in _modules(architecture):
        exactly(weights, f"{name}.weight", *shape)
        if has_bias:
            exactly(weights, f"{name}.bias", shape[0])
        elif f"{name}.bias" in weights:
            raise ConfigurationError(f"there is a weight {name}.bias, but config.json says nothing of it")


def exactly(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of exactly this shape. Raises KeyError, ConfigurationError."""
    view = at_least(weights, name, *shape)
    if view.shape != shape:
        raise _of_another_shape(name, view, shape)
    return view


def at_least(weights: Weights, name: str, *shape: int) -> TensorView:
    """A weight of this shape, or of more rows. Raises KeyError, ConfigurationError."""
    view = weights[name]
    if len(view.shape) != len(shape) or view.shape[1:] != shape[1:] or view.shape[0] < shape[0]:
        raise _of_another_shape(name, view, shape)
    return view


def _of_another_shape(name: str, view: TensorView, shape: tuple[int, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"the weight {name} has the shape {list(view.shape)} where config.json asks for {list(shape)}"
    )


def _modules(architecture: Architecture) -> Iterator[_Module]:
    """All but the tables."""
    hidden, is_encoder = (architecture.hidden,), architecture.family.is_encoder
    yield ("embeddings.LayerNorm", hidden, True) if is_encoder else ("norm", hidden, False)
    prefix, layer = ("encoder.layer", _encoder_layer) if is_encoder else ("layers", _decoder_layer)
    for number in range(architecture.layers):
        for name, shape, has_bias in layer(architecture):
            yield f"{prefix}.{number}.{name}", shape, has_bias


def _encoder_layer(architecture: Architecture) -> Iterator[_Module]:
    hidden, inner = architecture.hidden, architecture.intermediate
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        yield f"attention.{name}", (hidden, hidden), True
    yield "attention.output.LayerNorm", (hidden,), True
    yield "intermediate.dense", (inner, hidden), True
    yield "output.dense", (hidden, inner), True
    yield "output.LayerNorm", (hidden,), True


def _decoder_layer(architecture: Architecture) -> Iterator[_Module]:
    hidden, inner, head_dim = architecture.hidden, architecture.intermediate, architecture.head_dim
    width, kv_width = architecture.heads * head_dim, architecture.kv_heads * head_dim
    yield "input_layernorm", (hidden,), False
    yield "self_attn.q_proj", (width, hidden), architecture.attention_bias
    yield "self_attn.k_proj", (kv_width, hidden), architecture.attention_bias
    yield "self_attn.v_proj", (kv_width, hidden), architecture.attention_bias
    yield "self_attn.o_proj", (hidden, width), architecture.attention_bias
    if architecture.family.has_head_norms:
        yield "self_attn.q_norm", (head_dim,), False
        yield "self_attn.k_norm", (head_dim,), False
    yield "post_attention_layernorm", (hidden,), False
    yield "mlp.gate_proj", (inner, hidden), architecture.mlp_bias
    yield "mlp.up_proj", (inner, hidden), architecture.mlp_bias
    yield "mlp.down_proj", (hidden, inner), architecture.mlp_bias
