"""What a config.json says is computed as transformers computes it, or refused: never something else."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import embed_with_transformers

from vectoll.adapters.checkpoints import read_checkpoint
from vectoll.adapters.engines.torch import load_engine
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

Json = dict[str, Any]

BATCH = [[3], [5, 6, 7], [(7 * i + 3) % 40 for i in range(30)]]
SCALED = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = SCALED | {"original_max_position_embeddings": 16}
MISSING = "(missing)"

OF_ANY: list[Json] = [
    {"hidden_act": act} for act in ("gelu", "relu", "silu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")
] + [
    {"num_hidden_layers": 1},
    {"num_attention_heads": 2},
    {"num_attention_heads": 8},
    {"intermediate_size": 16},
    {"is_causal": False},
    {"is_causal": None},
    {"tie_word_embeddings": True},
    {"pad_token_id": None},
    {"pad_token_id": 5},
]
OF_ENCODERS: list[Json] = [
    {"layer_norm_eps": 0.5},
    {"position_embedding_type": "relative_key"},
    {"is_decoder": True},
    {"chunk_size_feed_forward": 2},
    {"type_vocab_size": 1},
    {"max_position_embeddings": 40},
]
OF_DECODERS: list[Json] = [
    {"rms_norm_eps": 0.5},
    {"head_dim": MISSING},
    {"head_dim": 8},
    {"num_key_value_heads": MISSING},
    {"num_key_value_heads": 1},
    {"attention_bias": True},
    {"attention_bias": MISSING},
    {"mlp_bias": True},
    {"sliding_window": MISSING},
    {"sliding_window": None},
    {"sliding_window": 4},
    {"use_sliding_window": True, "sliding_window": 4},
    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    {"rope_theta": 300.0},
    {"rope_parameters": MISSING},
    {"rope_parameters": MISSING, "rope_theta": 300.0, "rope_scaling": LLAMA3},
    {"rope_parameters": MISSING, "rope_theta": 300.0, "rope_scaling": SCALED},
    {"rope_scaling": LLAMA3},
    {"rope_parameters": LLAMA3 | {"rope_theta": 300.0}},
    {"rope_parameters": LLAMA3 | {"rope_theta": 300.0}, "original_max_position_embeddings": 8},
    {"rope_parameters": LLAMA3 | {"rope_theta": 300.0, "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.0}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 300.0}}},
    {"partial_rotary_factor": 0.5},
]
CASES = [
    *((family, said) for family in ("bert", "qwen3") for said in OF_ANY),
    *((family, said) for family in ("bert", "xlm-roberta") for said in OF_ENCODERS),
    *((family, said) for family in ("llama", "mistral", "qwen3") for said in OF_DECODERS),
]


def model_of(family: str) -> Any:
    import transformers as t

    shared = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shared |= {"intermediate_size": 32, "max_position_embeddings": 64}
    if family == "bert":
        return t.BertModel(t.BertConfig(**shared))
    if family == "xlm-roberta":
        return t.XLMRobertaModel(t.XLMRobertaConfig(**shared))
    options: Json = shared | {"num_key_value_heads": 2, "head_dim": 16}
    if family == "mistral":
        return t.MistralModel(t.MistralConfig(**options, sliding_window=7))
    if family == "qwen3":
        return t.Qwen3Model(t.Qwen3Config(**options))
    return t.LlamaModel(t.LlamaConfig(**options, attention_bias=True))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def save(family: str) -> Path:
        torch.manual_seed(5)
        model = model_of(family)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                is_scale = weight.dim() == 1 and name.lower().endswith("norm.weight")
                weight.normal_(float(is_scale), 0.3 if weight.dim() == 1 else 1.5 * weight.shape[-1] ** -0.5)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return folder

    return cache(save)


def transformers_on(folder: Path) -> "np.ndarray[Any, Any] | None":
    """None where it fails."""
    try:
        return embed_with_transformers(folder, BATCH, "mean")
    except Exception:  # noqa: BLE001 - of any kind: it is given what nobody would publish
        return None


@pytest.mark.parametrize(("family", "said"), CASES, ids=str)
def test_it_is_computed_as_transformers_does_or_refused(
    folder_of: Any, tmp_path: Path, family: str, said: Json
) -> None:
    published = folder_of(family)
    (tmp_path / "model.safetensors").symlink_to(published / "model.safetensors")
    config = json.loads((published / "config.json").read_text()) | said
    config = {key: value for key, value in config.items() if value != MISSING}
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        engine = load_engine(read_checkpoint(tmp_path), device="cpu", precision="f32", pooling=Pooling.MEAN)
    except ConfigurationError:
        return
    theirs = transformers_on(tmp_path)
    if theirs is not None:
        assert (
            np.abs(np.stack([np.asarray(vector) for vector in engine.embed(BATCH, 0)]) - theirs).max() < 2e-5
        )
