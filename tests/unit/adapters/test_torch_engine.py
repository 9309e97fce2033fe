"""Packed sequences against padded transformers, on tiny checkpoints in the real on-disk format of each family."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint
from vectoll.adapters.engines.torch import TorchEngine, load_engine
from vectoll.adapters.engines.torch import engine as torch_engine
from vectoll.adapters.engines.torch.attention import flash_attention
from vectoll.adapters.engines.torch.kernels import Kernels
from vectoll.adapters.engines.torch.networks import Decoder, Encoder
from vectoll.adapters.engines.torch.packing import Packer
from vectoll.adapters.engines.torch.weights import CheckpointTensors
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
VOCAB = 200
MAX_TOKENS = 40
PADDING = 1
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": PADDING,
    "initializer_range": 0.25,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": MAX_TOKENS}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _model(family: str) -> Any:
    t = transformers
    if family == "bert":
        return t.BertModel(t.BertConfig(**SIZES, max_position_embeddings=MAX_TOKENS), add_pooling_layer=False)
    if family == "xlm-roberta":
        config = t.XLMRobertaConfig(**SIZES, max_position_embeddings=MAX_TOKENS + 2, type_vocab_size=1)
        return t.XLMRobertaModel(config, add_pooling_layer=False)
    if family == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, head_dim=16, tie_word_embeddings=True))
    if family == "mistral":
        return t.MistralModel(t.MistralConfig(**GROUPED, sliding_window=7))
    config = t.LlamaConfig(**GROUPED, rope_parameters=LLAMA3_ROPE)
    config.is_causal = False
    return t.LlamaModel(config)


FAMILIES = {
    "bert": [Pooling.MEAN, Pooling.CLS],
    "xlm-roberta": [Pooling.CLS, Pooling.MEAN],
    "qwen3": [Pooling.LAST],
    "mistral": [Pooling.LAST],
    "nemotron": [Pooling.MEAN, Pooling.LAST],
}
CASES = [
    pytest.param(family, pooling, id=f"{family}-{pooling}")
    for family, ps in FAMILIES.items()
    for pooling in ps
]


def _randomise_norms(model: Any) -> None:
    """Fresh norms are ones and zeros, which would hide a norm that is skipped or misplaced."""
    for name, weight in model.named_parameters():
        if "norm" in name.lower() or name.endswith("bias"):
            weight.data += torch.randn_like(weight) * 0.2


def _as_nemotron(folder: Path) -> None:
    """The vision-language layout: the text tower among others, below ``language_model.``."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    tensors["vision_model.embeddings.patch_embedding.weight"] = torch.randn(4, 4)
    tensors["mlp1.0.weight"] = torch.randn(4, 4)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LlamaBidirectionalModel"], "model_type": "llama_bidirec"}
    wrapper = {
        "model_type": "llama_nemotron_vl",
        "architectures": ["LlamaNemotronVLModel"],
        "llm_config": config,
    }
    (folder / "config.json").write_text(json.dumps(wrapper))


class Reference:
    """A tiny checkpoint on disk and the transformers model it came from, run padded."""

    def __init__(self, family: str, folder: Path) -> None:
        torch.manual_seed(7)
        whole = _model(family).eval()
        _randomise_norms(whole)
        whole.save_pretrained(folder)
        if family == "nemotron":
            _as_nemotron(folder)
        self.model = whole.model if family == "qwen3" else whole
        self.folder = folder

    @property
    def checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.folder)

    def embed(
        self, batch: Sequence[Sequence[int]], pooling: Pooling
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Right-padded, masked, pooled and normalised as the model cards do."""
        width = max(map(len, batch))
        ids = torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        with torch.inference_mode():
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        if pooling is Pooling.CLS:
            vectors = states[:, 0]
        elif pooling is Pooling.LAST:
            vectors = states[torch.arange(len(batch)), mask.sum(1) - 1]
        else:
            vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        unit: np.ndarray[Any, np.dtype[np.float32]] = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        return unit


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    return {family: Reference(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_ids(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Ids that are not the padding token."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB, length).tolist() for length in lengths]


def as_array(vectors: Sequence[memoryview]) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.stack([np.frombuffer(vector, dtype=np.float32) for vector in vectors])


def worst_cosine(ours: Any, theirs: Any) -> float:
    return float((ours.astype(np.float64) * theirs).sum(1).min())


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_packed_equals_padded_transformers(
    references: dict[str, Reference], family: str, pooling: Pooling, device: str
) -> None:
    batch = random_ids([3, MAX_TOKENS, 1, 17, 8, 8, 2, 29])
    engine = TorchEngine(references[family].checkpoint, pooling, device=device, precision="f32")
    ours, theirs = as_array(engine.embed(batch, 0)), references[family].embed(batch, pooling)
    assert worst_cosine(ours, theirs) >= 0.99999
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_bf16_stays_close(
    references: dict[str, Reference], family: str, pooling: Pooling, device: str
) -> None:
    batch = random_ids([5, MAX_TOKENS, 1, 12])
    engine = TorchEngine(references[family].checkpoint, pooling, device=device, precision="bf16")
    ours = as_array(engine.embed(batch, 0))
    assert worst_cosine(ours, references[family].embed(batch, pooling)) >= 0.999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_neighbours_and_order_change_nothing(
    references: dict[str, Reference], family: str, pooling: Pooling, device: str
) -> None:
    batch = random_ids([9, 2, MAX_TOKENS, 1, 23])
    engine = TorchEngine(references[family].checkpoint, pooling, device=device, precision="f32")
    together = as_array(engine.embed(batch, 0))
    alone = np.concatenate([as_array(engine.embed([ids], 0)) for ids in batch])
    reversed_order = as_array(engine.embed(batch[::-1], 0))[::-1]
    other_neighbours = as_array(engine.embed([batch[0], *random_ids([30, 4], seed=9), batch[4]], 0))[[0, 3]]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(reversed_order, together, atol=1e-5)
    np.testing.assert_allclose(other_neighbours, together[[0, 4]], atol=1e-5)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_mixed_lengths_are_finite_and_right(
    references: dict[str, Reference], family: str, pooling: Pooling, device: str
) -> None:
    engine = TorchEngine(references[family].checkpoint, pooling, device=device, precision="f32")
    rng = np.random.default_rng(3)
    for seed in range(8):
        batch = random_ids(rng.integers(1, MAX_TOKENS + 1, rng.integers(1, 20)).tolist(), seed)
        ours = as_array(engine.embed(batch, 0))
        assert np.isfinite(ours).all()
        assert worst_cosine(ours, references[family].embed(batch, pooling)) >= 0.99999


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_the_reference_tells_a_wrong_last_token_or_pooling(
    references: dict[str, Reference], family: str, pooling: Pooling
) -> None:
    """What the tests above compare with would notice a dropped end token and every other pooling."""
    batch = random_ids([12, 20])
    right = references[family].embed(batch, pooling)
    without_end = references[family].embed([ids[:-1] for ids in batch], pooling)
    assert worst_cosine(right, without_end) < 0.999
    for other in {Pooling.CLS, Pooling.MEAN, Pooling.LAST} - {pooling}:
        assert worst_cosine(right, references[family].embed(batch, other)) < 0.999


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_the_flash_attention_path_runs_on_shapes(
    references: dict[str, Reference], family: str, pooling: Pooling
) -> None:
    """Without a GPU: every step of the bf16 path on tensors that have a shape and a type but no memory."""
    checkpoint = references[family].checkpoint
    meta = torch.device("meta")
    tensors = CheckpointTensors(checkpoint, meta, torch.bfloat16)
    kind = Encoder if checkpoint.architecture.family.is_encoder else Decoder
    network = kind(checkpoint.architecture, tensors, flash_attention, Kernels())
    packer = Packer(checkpoint.architecture, network.vocab, pooling, meta)
    states = network(packer.upload(packer.pack([[1, 2, 3], [4], [5, 6]]), sequences=3, longest=3))
    assert (states.shape, states.dtype) == ((6 if pooling is Pooling.MEAN else 3, 32), torch.bfloat16)


@pytest.mark.parametrize("heads", [3, 4, 1])
def test_heads_of_a_size_that_the_flash_kernel_lacks_are_computed_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: int
) -> None:
    """It takes multiples of 8 up to 256."""
    monkeypatch.setattr(torch_engine, "_has_bf16_units", lambda device: device.type == "cpu")
    sizes = SIZES | {"num_attention_heads": heads, "hidden_size": 264 if heads == 1 else heads * 20}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    engine = TorchEngine(read_checkpoint(tmp_path), Pooling.MEAN, device="cpu", precision="bf16")
    assert len(engine.embed([[5, 6, 7]], 0)[0]) == sizes["hidden_size"]


def test_a_padding_token_inside_a_text_has_robertas_position(
    references: dict[str, Reference], device: str
) -> None:
    batch = [[5, 6, PADDING, PADDING, 7, 8], [PADDING, 9], [4, 5, PADDING]]
    engine = TorchEngine(references["xlm-roberta"].checkpoint, Pooling.CLS, device=device, precision="f32")
    theirs = np.concatenate([references["xlm-roberta"].embed([ids], Pooling.CLS) for ids in batch])
    np.testing.assert_allclose(as_array(engine.embed(batch, 0)), theirs, atol=2e-5)


def test_vectors_are_read_only_float32(references: dict[str, Reference], device: str) -> None:
    engine = TorchEngine(references["bert"].checkpoint, Pooling.MEAN, device=device)
    vectors = engine.embed(random_ids([3, 4]), 0)
    assert [(v.format, v.shape, v.readonly, v.c_contiguous) for v in vectors] == [
        ("f", (32,), True, True)
    ] * 2
    assert engine.dims == 32
    assert engine.packed
    assert engine.embed([], 0) == []
    engine.close()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([[5], []], "no tokens"),
        ([[5, VOCAB]], "outside 0..199"),
        ([[5, -1]], "outside 0..199"),
        ([[5] * (MAX_TOKENS + 1)], "longer than"),
    ],
)
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "qwen3"])
def test_what_a_model_cannot_read_never_reaches_the_device(
    references: dict[str, Reference], family: str, batch: list[list[int]], message: str, device: str
) -> None:
    engine = TorchEngine(references[family].checkpoint, FAMILIES[family][0], device=device)
    with pytest.raises(ValueError, match=message):
        engine.embed(batch, 0)
    assert len(engine.embed([[5, 6]], 0)) == 1


def test_shards_half_floats_and_pickled_tensors_give_the_same_vectors(
    references: dict[str, Reference], tmp_path: Path
) -> None:
    original = references["xlm-roberta"]
    batch = random_ids([7, 30])
    whole = as_array(TorchEngine(original.checkpoint, Pooling.CLS, device="cpu").embed(batch, 0))
    config = (original.folder / "config.json").read_text()
    for kind in ("sharded", "half", "pickled"):
        folder = tmp_path / kind
        if kind == "sharded":
            original.model.save_pretrained(folder, max_shard_size="20KB")
            assert len(list(folder.glob("*.safetensors"))) > 1
        else:
            folder.mkdir()
            (folder / "config.json").write_text(config)
        state = {name: tensor.contiguous() for name, tensor in original.model.state_dict().items()}
        if kind == "half":
            save_file({name: tensor.half() for name, tensor in state.items()}, folder / "model.safetensors")
        if kind == "pickled":
            prefixed = {f"roberta.{name}": tensor for name, tensor in state.items()}
            torch.save(prefixed, folder / "pytorch_model.bin")
        engine = TorchEngine(read_checkpoint(folder), Pooling.CLS, device="cpu")
        assert worst_cosine(as_array(engine.embed(batch, 0)), whole) >= 0.99999


def test_a_missing_weight_is_named(references: dict[str, Reference], tmp_path: Path) -> None:
    tensors = load_file(references["bert"].folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((references["bert"].folder / "config.json").read_text())
    with pytest.raises(ConfigurationError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        TorchEngine(read_checkpoint(tmp_path), Pooling.CLS, device="cpu")


@pytest.mark.parametrize(
    ("name", "change"), [("bert", "vocab_size"), ("bert", "max_position_embeddings"), ("qwen3", "vocab_size")]
)
def test_a_table_with_fewer_rows_than_config_json_says_is_refused(
    references: dict[str, Reference], tmp_path: Path, name: str, change: str
) -> None:
    """Read beyond its end on a GPU, it would be an assertion that kills every model of the process."""
    folder = references[name].folder
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, change: config[change] + 1}))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ConfigurationError, match="has the shape"):
        TorchEngine(read_checkpoint(tmp_path), Pooling.LAST, device="cpu")


def test_load_engine_takes_the_pooling_from_the_checkpoint_or_asks_for_it(
    references: dict[str, Reference], tmp_path: Path
) -> None:
    checkpoint = references["bert"].checkpoint
    with pytest.raises(ConfigurationError, match=r"models\.pooling"):
        load_engine(checkpoint, device="cpu")
    batch = random_ids([4, 9])
    engine = load_engine(replace(checkpoint, pooling=Pooling.MEAN), device="cpu", max_batch_tokens=512)
    assert engine.max_batch_tokens == 512
    assert (
        worst_cosine(as_array(engine.embed(batch, 0)), references["bert"].embed(batch, Pooling.MEAN))
        > 0.99999
    )


def test_a_device_that_is_not_there_is_one_clear_line(
    references: dict[str, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no CUDA device"):
        load_engine(references["bert"].checkpoint, pooling=Pooling.CLS)


def test_calls_side_by_side_get_their_own_vectors(references: dict[str, Reference], device: str) -> None:
    engine = TorchEngine(references["qwen3"].checkpoint, Pooling.LAST, device=device, precision="f32")
    batches = [random_ids([3, 20, 7], seed) for seed in range(24)]
    expected = [as_array(engine.embed(batch, 0)) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda batch: as_array(engine.embed(batch, 0)), batches))
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=1e-6)
