"""The CPU engine's contract. What the numbers are is for tests/golden and the families' tests."""

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from tests.minilm import minilm

from vectoll.adapters.engines.openvino import OpenVinoEngine, load_engine
from vectoll.adapters.engines.openvino import engine as engine_module
from vectoll.adapters.engines.openvino.engine import resolve_precision
from vectoll.domain.catalog import Precision
from vectoll.domain.errors import ConfigurationError

HELLO = [101, 7592, 102]
WORLD = [101, 2088, 2003, 2307, 102]


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


def test_what_cannot_be_compiled_for_lone_sequences_costs_only_speed(ran: list[str]) -> None:
    class Core:
        def compile_model(self, *_: object) -> Graph:
            raise RuntimeError("no memory")

    failed: Future[Any] = Future()
    failed.set_result(engine_module._open_wide(Core(), None, {}, lambda: None))
    engine = OpenVinoEngine(Graph("narrow", ran), minilm().architecture, 2, None, wide=failed)
    engine.embed([HELLO], 0)
    assert ran == ["narrow"]


def test_only_a_sequence_that_comes_alone_is_spread_over_cores(
    spread: OpenVinoEngine, wide: Graph, ran: list[str]
) -> None:
    wide.meanwhile = lambda: spread.embed([WORLD], 1)
    spread.embed([HELLO], 0)
    assert ran == ["wide", "narrow"]
    spread.embed([HELLO, WORLD], 0)
    spread.embed([HELLO], 0, is_alone=False)
    assert ran == ["wide", "narrow", "narrow", "narrow"]


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
