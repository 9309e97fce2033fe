"""all-MiniLM-L6-v2 against vectors that transformers made (make.py)."""

import base64
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cpu import HAS_AVX512_BF16, needs_avx2
from tests.golden.texts import TEXTS
from tests.minilm import minilm
from tests.reference import embed_with_transformers

from vectoll.adapters.engines import native, openvino
from vectoll.adapters.tokenizers import load_tokenizer
from vectoll.ports.engine import Engine

GOLDEN = json.loads(Path(__file__).with_name("minilm.json").read_text())
EXPECTED = np.frombuffer(base64.b64decode(GOLDEN["vectors_f32_base64"]), "<f4").reshape(-1, GOLDEN["dims"])

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=[pytest.param("native", marks=needs_avx2), "openvino"])
def load(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    loads: dict[str, Callable[..., Engine]] = {"native": native.load_engine, "openvino": openvino.load_engine}
    return loads[request.param]


@pytest.fixture(scope="module")
def engine(load: Callable[..., Engine]) -> Engine:
    return load(minilm(), precision="f32", streams=1)


def vectors(engine: Engine, batch: Sequence[Sequence[int]]) -> Array:
    return np.array(engine.embed(batch, 0), np.float32)


def cosines(a: Array, b: Array) -> Array:
    return np.asarray((a.astype(np.float64) * b).sum(axis=1))


def test_tokenizer_agrees_with_transformers() -> None:
    assert [list(e.ids) for e in load_tokenizer(minilm()).encode(TEXTS)] == GOLDEN["ids"]


def test_f32_vectors_equal_transformers(engine: Engine) -> None:
    actual = vectors(engine, GOLDEN["ids"])
    assert cosines(actual, EXPECTED).min() >= 0.99999
    assert np.abs(actual - EXPECTED).max() < 1e-5


def test_the_fastest_precision_of_this_cpu_stays_close_to_transformers(load: Callable[..., Engine]) -> None:
    actual = vectors(load(minilm(), precision="auto", streams=1), GOLDEN["ids"])
    assert cosines(actual, EXPECTED).min() >= 0.999
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-5


def test_a_vector_does_not_depend_on_its_batch(engine: Engine) -> None:
    order = list(range(len(TEXTS)))
    random.Random(7).shuffle(order)
    shuffled = vectors(engine, [GOLDEN["ids"][i] for i in order])
    together = vectors(engine, GOLDEN["ids"])
    alone = np.concatenate([vectors(engine, [ids]) for ids in GOLDEN["ids"]])
    assert np.abs(alone - together).max() < 1e-5
    assert np.abs(shuffled - together[order]).max() < 1e-5


def test_the_usual_three_sentences(engine: Engine) -> None:
    a, b, c = vectors(engine, GOLDEN["ids"][:3])
    assert [a @ b, a @ c, b @ c] == pytest.approx([0.666, 0.105, 0.141], abs=5e-4)


def test_the_golden_vectors_are_still_what_transformers_computes() -> None:
    actual = embed_with_transformers(minilm().folder, GOLDEN["ids"], "mean")
    assert cosines(actual, EXPECTED).min() >= 0.999999


def test_int8_costs_little_accuracy(load: Callable[..., Engine]) -> None:
    if load is native.load_engine and not HAS_AVX512_BF16:
        pytest.skip("int8 in native kernels is for AVX-512")
    actual = vectors(load(minilm(), precision="int8", streams=1), GOLDEN["ids"])
    assert cosines(actual, EXPECTED).min() >= 0.99
    assert cosines(actual, EXPECTED).mean() >= 0.998
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-5
