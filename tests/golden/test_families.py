"""Every family of open models, on tiny checkpoints, against vectors that transformers made (make.py)."""

import base64
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cpu import needs_avx2
from tests.golden.texts import TEXTS
from tests.reference import embed_with_transformers
from tests.tiny_checkpoints import MAKERS, PROMPTS

from vectoll.adapters.checkpoints import Attention, Checkpoint, read_checkpoint
from vectoll.adapters.engines import native, openvino
from vectoll.adapters.tokenizers import load_tokenizer
from vectoll.domain.catalog import Pooling
from vectoll.ports.engine import Engine

GOLDEN = json.loads(Path(__file__).with_name("tiny.json").read_text())["families"]
NAMES = list(MAKERS)
CAUSAL = [name for name in NAMES if name.startswith(("qwen3", "bge-en-icl"))]

Array = np.ndarray[Any, Any]
Batch = Sequence[Sequence[int]]


def on_both(names: Sequence[str]) -> list[Any]:
    """Each with each engine of the CPU."""
    return [
        *(pytest.param(name, "openvino") for name in names),
        *(pytest.param(name, "native", marks=needs_avx2) for name in names),
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture
def checkpoint(name: str, folders: Path) -> Checkpoint:
    if not (folders / name).exists():
        MAKERS[name](folders / name)
    return read_checkpoint(folders / name)


@cache
def engine_of(checkpoint: Checkpoint, precision: str = "f32", runtime: str = "openvino") -> Engine:
    load = native.load_engine if runtime == "native" else openvino.load_engine
    return load(checkpoint, precision=precision, streams=2)


def ids_of(name: str) -> list[list[int]]:
    return GOLDEN[name]["ids"]  # type: ignore[no-any-return]


def expected(name: str) -> Array:
    return np.frombuffer(base64.b64decode(GOLDEN[name]["vectors_f32_base64"]), "<f4").reshape(
        -1, GOLDEN[name]["dims"]
    )


def vectors(engine: Engine, batch: Batch, stream: int = 0) -> Array:
    return np.array(engine.embed(batch, stream), np.float32)


def min_cosine(a: Array, b: Array) -> float:
    return float((a.astype(np.float64) * b).sum(axis=1).min())


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_the_golden_ones_special_tokens_included(name: str, checkpoint: Checkpoint) -> None:
    texts = [*TEXTS, *(PROMPTS[name] + text for text in TEXTS[:3])]
    encodings = load_tokenizer(checkpoint).encode(texts, max_tokens=checkpoint.max_tokens)
    assert [list(encoding.ids) for encoding in encodings] == ids_of(name)
    assert max(map(len, ids_of(name))) == checkpoint.max_tokens


@pytest.mark.parametrize(("name", "runtime"), on_both(NAMES))
def test_f32_vectors_equal_transformers(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    actual = vectors(engine_of(checkpoint, "f32", runtime), ids_of(name))
    assert min_cosine(actual, expected(name)) >= 0.99999
    assert np.abs(actual - expected(name)).max() < 1e-5


@pytest.mark.parametrize(("name", "runtime"), on_both(NAMES))
def test_the_fastest_precision_of_this_cpu_stays_close(
    name: str, runtime: str, checkpoint: Checkpoint
) -> None:
    actual = vectors(engine_of(checkpoint, "auto", runtime), ids_of(name))
    assert min_cosine(actual, expected(name)) >= 0.999
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(("name", "runtime"), on_both(NAMES))
def test_a_vector_does_not_depend_on_its_batch(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint, "f32", runtime)
    order = list(range(len(ids_of(name))))
    random.Random(3).shuffle(order)
    together = vectors(engine, ids_of(name))
    alone = np.concatenate([vectors(engine, [ids]) for ids in ids_of(name)])
    shuffled = vectors(engine, [ids_of(name)[i] for i in order])
    assert np.abs(alone - together).max() < 1e-5
    assert np.abs(shuffled - together[order]).max() < 1e-5


@pytest.mark.parametrize(("name", "runtime"), on_both(NAMES))
def test_any_mix_of_lengths_on_all_streams_is_finite(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    engine, rng = engine_of(checkpoint, "auto", runtime), random.Random(name)
    architecture = checkpoint.architecture

    def sequence(length: int) -> list[int]:
        return [rng.randrange(architecture.vocab) for _ in range(length)]

    batches = [
        [
            sequence(rng.choice([1, 2, rng.randint(1, 40), architecture.positions]))
            for _ in range(rng.randint(1, 9))
        ]
        for _ in range(40)
    ]

    def work(stream: int) -> list[Array]:
        return [vectors(engine, batch, stream) for batch in batches[stream :: engine.streams]]

    with ThreadPoolExecutor(engine.streams) as threads:
        for results in threads.map(work, range(engine.streams)):
            for result in results:
                assert np.isfinite(result).all()
                assert np.abs(np.linalg.norm(result, axis=1) - 1).max() < 1e-5


# What follows shows that the vectors above tell a wrong model from a right one.


@pytest.mark.parametrize(("name", "runtime"), on_both(CAUSAL))
def test_without_its_end_token_a_vector_is_another(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    cut = [ids[:-1] for ids in ids_of(name)]
    assert min_cosine(vectors(engine_of(checkpoint, "f32", runtime), cut), expected(name)) < 0.9


@pytest.mark.parametrize(("name", "runtime"), on_both(NAMES))
def test_with_another_pooling_a_vector_is_another(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    for pooling in {Pooling.CLS, Pooling.MEAN, Pooling.LAST} - {checkpoint.pooling}:
        engine = engine_of(replace(checkpoint, pooling=pooling), "f32", runtime)
        assert min_cosine(vectors(engine, ids_of(name)), expected(name)) < 0.99


@pytest.mark.parametrize(("name", "runtime"), on_both([*CAUSAL, "nemotron-vl"]))
def test_with_the_other_attention_a_vector_is_another(
    name: str, runtime: str, checkpoint: Checkpoint
) -> None:
    architecture = checkpoint.architecture
    other = Attention.FULL if architecture.attention is Attention.CAUSAL else Attention.CAUSAL
    changed = replace(checkpoint, architecture=replace(architecture, attention=other))
    engine = engine_of(changed, "f32", runtime)
    assert min_cosine(vectors(engine, ids_of(name)), expected(name)) < 0.99


@pytest.mark.parametrize(("name", "runtime"), on_both(["bge-en-icl"]))
def test_without_the_sliding_window_a_long_vector_is_another(
    name: str, runtime: str, checkpoint: Checkpoint
) -> None:
    architecture = replace(checkpoint.architecture, sliding_window=None)
    engine = engine_of(replace(checkpoint, architecture=architecture), "f32", runtime)
    actual = vectors(engine, ids_of(name))
    is_short = np.array([len(ids) <= 12 for ids in ids_of(name)])
    assert min_cosine(actual[is_short], expected(name)[is_short]) > 0.99999
    assert min_cosine(actual, expected(name)) < 0.99


@pytest.mark.parametrize(("name", "runtime"), on_both(["bge-m3", "e5"]))
def test_with_positions_from_zero_a_vector_is_another(
    name: str, runtime: str, checkpoint: Checkpoint
) -> None:
    architecture = replace(checkpoint.architecture, position_offset=0)
    actual = vectors(engine_of(replace(checkpoint, architecture=architecture), "f32", runtime), ids_of(name))
    assert min_cosine(actual, expected(name)) < 0.999


@pytest.mark.parametrize(("name", "runtime"), on_both(["nemotron-vl"]))
def test_without_rotary_scaling_a_vector_is_another(name: str, runtime: str, checkpoint: Checkpoint) -> None:
    rope = checkpoint.architecture.rope
    assert rope
    assert rope.scaling
    architecture = replace(checkpoint.architecture, rope=replace(rope, scaling=None))
    engine = engine_of(replace(checkpoint, architecture=architecture), "f32", runtime)
    assert min_cosine(vectors(engine, ids_of(name)), expected(name)) < 0.9999


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_vectors_are_still_what_transformers_computes(name: str, checkpoint: Checkpoint) -> None:
    assert checkpoint.pooling
    actual = embed_with_transformers(checkpoint.folder, ids_of(name), checkpoint.pooling)
    assert min_cosine(actual, expected(name)) >= 0.999999
