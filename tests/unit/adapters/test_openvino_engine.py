"""The CPU engine's contract. What the numbers are is for tests/golden and the families' tests."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.minilm import minilm

from vectoll.adapters.checkpoints import read_checkpoint
from vectoll.adapters.engines.openvino import OpenVinoEngine, Precision, load_engine
from vectoll.adapters.engines.openvino import engine as engine_module
from vectoll.adapters.engines.openvino.engine import resolve_precision
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

HELLO = [101, 7592, 102]
WORLD = [101, 2088, 2003, 2307, 102]


@pytest.fixture(scope="module")
def engine() -> Iterator[OpenVinoEngine]:
    engine = load_engine(minilm(), precision="f32", streams=2)
    yield engine
    engine.close()


def test_a_vector_is_a_read_only_view_of_floats(engine: OpenVinoEngine) -> None:
    first, second = engine.embed([HELLO, WORLD], 0)
    for vector in (first, second):
        assert (vector.format, vector.shape, vector.readonly, vector.c_contiguous) == (
            "f",
            (384,),
            True,
            True,
        )
        assert np.linalg.norm(np.asarray(vector)) == pytest.approx(1, abs=1e-5)
    assert engine.dims == 384


def test_a_vector_outlives_the_next_batch(engine: OpenVinoEngine) -> None:
    (vector,) = engine.embed([HELLO], 0)
    before = vector.tobytes()
    engine.embed([WORLD], 0)
    assert vector.tobytes() == before


def test_streams_run_side_by_side(engine: OpenVinoEngine) -> None:
    expected = [v.tobytes() for v in engine.embed([HELLO, WORLD], 0)]

    def work(stream: int) -> bool:
        return all([v.tobytes() for v in engine.embed([HELLO, WORLD], stream)] == expected for _ in range(50))

    with ThreadPoolExecutor(engine.streams) as threads:
        assert list(threads.map(work, range(engine.streams))) == [True, True]


def test_streams_are_one_per_core_unless_set() -> None:
    import os

    assert load_engine(minilm()).streams == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("ids", [[101, 30522, 102], [101, -1, 102], []])
def test_ids_that_the_model_does_not_have_are_refused(engine: OpenVinoEngine, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        engine.embed([HELLO, ids], 0)


def test_the_longest_input_works_and_a_longer_one_is_refused(engine: OpenVinoEngine) -> None:
    (vector,) = engine.embed([[101] * 512], 0)
    assert np.isfinite(np.asarray(vector)).all()
    with pytest.raises(ValueError, match="per position"):
        engine.embed([[101] * 513], 0)


def test_pooling_can_be_overridden(engine: OpenVinoEngine) -> None:
    by_mean = np.asarray(engine.embed([WORLD], 0)[0])
    for pooling in (Pooling.CLS, Pooling.LAST):
        other = np.asarray(
            load_engine(minilm(), pooling=pooling, precision="f32", streams=1).embed([WORLD], 0)[0]
        )
        assert by_mean @ other < 0.99


def test_a_checkpoint_without_pooling_needs_one() -> None:
    with pytest.raises(ConfigurationError, match=r"pooling"):
        load_engine(replace(minilm(), pooling=None))


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    for file in minilm().folder.glob("*.json"):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(minilm().folder / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    shutil.copytree(minilm().folder / "1_Pooling", tmp_path / "1_Pooling")
    with pytest.raises(ConfigurationError, match=r"lacks the weight 'encoder\.layer\.6\."):
        load_engine(read_checkpoint(tmp_path))


def test_precision_follows_the_cpu() -> None:
    assert resolve_precision(Precision.AUTO, ["BF16", "FP32"]) is Precision.BF16
    assert resolve_precision(Precision.AUTO, ["FP32", "INT8"]) is Precision.F32
    assert resolve_precision(Precision.F32, ["BF16", "FP32"]) is Precision.F32
    with pytest.raises(ConfigurationError, match=r"engine\.precision"):
        resolve_precision(Precision.BF16, ["FP32"])


def test_a_closed_engine_holds_no_weights() -> None:
    engine = load_engine(minilm(), streams=2)
    reads = weakref.ref(engine._reads[0])  # type: ignore[index]
    assert reads() is not None
    engine.close()
    gc.collect()
    assert reads() is None


class Graph:
    """A compiled graph and its infer request. Writes its name down when it computes, then does what it is told."""

    def __init__(self, name: str, ran: list[str]) -> None:
        self.name, self.ran = name, ran
        self.meanwhile: Callable[[], object] = lambda: None

    def create_infer_request(self) -> "Graph":
        return self

    def infer(self, inputs: list[Any], **_: object) -> None:
        self.ran.append(self.name)
        self.data = np.zeros((len(inputs[-1]), 384), np.float32)
        self.meanwhile()

    def get_output_tensor(self, _: int) -> "Graph":
        return self


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def wide(ran: list[str]) -> Graph:
    return Graph("wide", ran)


@pytest.fixture
def spread(wide: Graph, ran: list[str]) -> OpenVinoEngine:
    ready: Future[Any] = Future()
    ready.set_result(wide)
    return OpenVinoEngine(Graph("narrow", ran), minilm().architecture, 2, None, wide=ready)


def test_a_lone_sequence_does_not_wait_for_what_is_being_compiled(ran: list[str]) -> None:
    engine = OpenVinoEngine(Graph("narrow", ran), minilm().architecture, 2, None, wide=Future())
    engine.embed([HELLO], 0)
    assert ran == ["narrow"]
    engine.close()


def test_only_a_sequence_that_comes_alone_is_spread_over_cores(
    spread: OpenVinoEngine, wide: Graph, ran: list[str]
) -> None:
    wide.meanwhile = lambda: spread.embed([WORLD], 1)
    spread.embed([HELLO], 0)
    assert ran == ["wide", "narrow"]
    spread.embed([HELLO, WORLD], 0)
    assert ran == ["wide", "narrow", "narrow"]


def test_a_call_that_fails_runs_no_more(spread: OpenVinoEngine, wide: Graph, ran: list[str]) -> None:
    def fail() -> None:
        raise RuntimeError

    wide.meanwhile = fail
    for _ in range(2):
        with pytest.raises(RuntimeError):
            spread.embed([HELLO], 0)
    assert ran == ["wide", "wide"]


@pytest.mark.parametrize("precision", ["f32", "auto"])
def test_spread_over_cores_a_sequence_gives_the_same_bits(precision: str) -> None:
    on_one, on_two = (load_engine(minilm(), precision=precision, streams=streams) for streams in (1, 2))
    assert on_one._wide is None
    assert on_two._wide is not None
    on_two._wide.result()
    for ids in (HELLO, WORLD, [101] * 100, [101] * 512):
        assert on_one.embed([ids], 0)[0].tobytes() == on_two.embed([ids], 0)[0].tobytes()


def test_the_weights_of_a_larger_model_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WIDE_PARAMETERS", 10_000_000)
    assert load_engine(minilm(), streams=2)._wide is None
