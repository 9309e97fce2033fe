"""Checkpoints of any configuration, as transformers saves them, against what transformers computes: each engine gives
the same vectors, or says that it cannot.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cpu import needs_avx2
from tests.reference import embed_with_transformers

from vectoll.adapters.checkpoints import Attention, Checkpoint, read_checkpoint
from vectoll.adapters.engines import native, openvino
from vectoll.adapters.engines import torch as torch_engines
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError
from vectoll.ports.engine import Engine

LENGTHS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 128, 130)
SEEDS = range(12)

Load = Callable[..., Engine]
Json = dict[str, Any]


def computed_on_the_cpu(checkpoint: Checkpoint, **how: Any) -> Engine:
    return torch_engines.load_engine(checkpoint, device="cpu", precision=how["precision"])


@pytest.fixture(
    scope="module", params=[pytest.param("native", marks=needs_avx2), "openvino", "torch"], ids=str
)
def load(request: pytest.FixtureRequest) -> Load:
    loads: dict[str, Load] = {"native": native.load_engine, "openvino": openvino.load_engine}
    return loads.get(request.param, computed_on_the_cpu)


def shared_of(pick: random.Random) -> Json:
    return {
        "vocab_size": pick.choice([7, 31, 97, 1000]),
        "num_hidden_layers": pick.choice([1, 2, 3]),
        "intermediate_size": pick.choice([1, 16, 31, 33, 100]),
        "max_position_embeddings": pick.choice([18, 33, 129, 202]),
    }


def encoder_of(pick: random.Random) -> Any:
    import transformers as t

    heads = pick.choice([1, 2, 3, 5, 12])
    options = shared_of(pick) | {
        "hidden_size": pick.choice([32 * heads, heads * pick.choice([1, 5, 20, 33, 72])]),
        "num_attention_heads": heads,
        "hidden_act": pick.choice(["gelu", "gelu", "gelu", "gelu_new", "relu", "silu"]),
        "layer_norm_eps": pick.choice([1e-12, 1e-5, 0.1]),
        "type_vocab_size": pick.choice([1, 2]),
    }
    if pick.random() < 0.5:
        return t.BertModel(t.BertConfig(**options))
    return t.XLMRobertaModel(t.XLMRobertaConfig(**options, pad_token_id=pick.choice([0, 1, 3])))


def decoder_of(pick: random.Random) -> Any:
    import transformers as t

    kv_heads, theta = pick.choice([1, 2, 3]), pick.choice([100.0, 1e4, 1e6])
    scaled: Json = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled |= {"original_max_position_embeddings": pick.choice([8, 64, 8192])}
    options = shared_of(pick) | {
        "num_attention_heads": kv_heads * pick.choice([1, 2, 7]),
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * pick.choice([1, 3, 8, 17, 32, 40]),
        "rms_norm_eps": pick.choice([1e-12, 1e-6, 0.1]),
        "rope_parameters": {"rope_theta": theta} | pick.choice([{"rope_type": "default"}, scaled]),
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    options["hidden_size"] = options["num_attention_heads"] * pick.choice([32, 6])
    options["is_causal"] = pick.random() < 0.75
    kind = pick.choice(["llama", "qwen3", "mistral"])
    if kind == "mistral":
        window = pick.choice([None, 1, 5, 16, 100]) if options["is_causal"] else None
        return t.MistralModel(t.MistralConfig(**options, sliding_window=window))
    options["attention_bias"] = pick.random() < 0.3
    if kind == "qwen3":
        return t.Qwen3Model(t.Qwen3Config(**options))
    return t.LlamaModel(t.LlamaConfig(**options, mlp_bias=pick.random() < 0.3))


def saved(folder: Path, pick: random.Random) -> Path:
    """In any type, in one file or several shards. The weights are such that nothing can be left out unnoticed."""
    model = pick.choice([encoder_of, decoder_of])(pick)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_scale = weight.dim() == 1 and name.lower().endswith("norm.weight")
            weight.normal_(1.0 if is_scale else 0.0, 0.3 if weight.dim() == 1 else weight.shape[-1] ** -0.5)
    kind = pick.choice([torch.float32, torch.float16, torch.bfloat16])
    model.to(kind).save_pretrained(folder, max_shard_size=pick.choice(["5GB", "40KB"]))
    return folder


def vectors(engine: Engine, batch: Sequence[Sequence[int]]) -> "np.ndarray[Any, Any]":
    return np.stack([np.frombuffer(vector, np.float32) for vector in engine.embed(batch, 0)])


class Case:
    """A checkpoint, a batch of mixed lengths, and its vectors."""

    def __init__(self, folder: Path, seed: int) -> None:
        pick = random.Random(seed)
        torch.manual_seed(seed)
        checkpoint = read_checkpoint(saved(folder, pick))
        shape = checkpoint.architecture
        is_causal = shape.attention is Attention.CAUSAL
        pooling = pick.choice([Pooling.MEAN, Pooling.LAST] if is_causal else [Pooling.CLS, Pooling.MEAN])
        lengths = [length for length in LENGTHS if length < shape.positions] + [shape.positions]
        pick.shuffle(lengths)
        self.checkpoint = replace(checkpoint, pooling=pooling)
        self.batch = [[pick.randrange(shape.vocab) for _ in range(length)] for length in lengths]
        self.vectors = embed_with_transformers(folder, self.batch, pooling)


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Case]:
    return cache(lambda seed: Case(tmp_path_factory.mktemp("any"), seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_vectors_are_those_of_transformers_or_refused(
    load: Load, case_of: Callable[[int], Case], seed: int
) -> None:
    case = case_of(seed)
    try:
        engine = load(case.checkpoint, precision="f32", streams=1)
    except ConfigurationError as refusal:
        if any(why in str(refusal) for why in ("the activation", "its hidden size")):
            return
        raise
    together = vectors(engine, case.batch)
    assert np.abs(together - case.vectors).max() < 2e-5
    alone = np.concatenate([vectors(engine, [ids]) for ids in case.batch])
    assert np.abs(together - alone).max() < (1e-5 if load is not native.load_engine else 1e-30)
    engine.close()
