"""The CPU engine's contract. What the numbers are is for tests/golden and the families' tests."""

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.minilm import minilm

from vectoll.adapters.checkpoints import read_checkpoint
from vectoll.adapters.engines.openvino import OpenVinoEngine, Precision, load_engine
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
    engine = load_engine(minilm(), streams=1)
    reads = weakref.ref(engine._reads[0])  # type: ignore[index]
    assert reads() is not None
    engine.close()
    gc.collect()
    assert reads() is None
