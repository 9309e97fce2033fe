"""What every engine of the CPU keeps, whatever computes. What the numbers are is for tests/golden."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.cpu import needs_avx2
from tests.minilm import minilm
from tests.reference import embed_with_transformers
from tests.tiny_checkpoints import MAKERS

from vectoll.adapters.checkpoints import read_checkpoint
from vectoll.adapters.engines import native, openvino
from vectoll.adapters.engines.cores import available_cores
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError
from vectoll.ports.engine import Engine

HELLO = [101, 7592, 102]
WORLD = [101, 2088, 2003, 2307, 102]

Load = Callable[..., Engine]


@pytest.fixture(scope="module", params=[pytest.param("native", marks=needs_avx2), "openvino"])
def load(request: pytest.FixtureRequest) -> Load:
    loads: dict[str, Load] = {"native": native.load_engine, "openvino": openvino.load_engine}
    return loads[request.param]


@pytest.fixture(scope="module")
def engine(load: Load) -> Iterator[Engine]:
    engine = load(minilm(), precision="f32", streams=2)
    yield engine
    engine.close()


def test_a_vector_is_a_read_only_view_of_floats(engine: Engine) -> None:
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


def test_a_vector_outlives_the_next_batch(engine: Engine) -> None:
    (vector,) = engine.embed([HELLO], 0)
    before = vector.tobytes()
    engine.embed([WORLD], 0)
    assert vector.tobytes() == before


def test_a_batch_among_others_has_the_vectors_that_it_has_alone(engine: Engine) -> None:
    alone = [v.tobytes() for v in engine.embed([WORLD], 0)]
    assert [v.tobytes() for v in engine.embed([WORLD], 0, is_alone=False)] == alone


def test_streams_run_side_by_side(engine: Engine) -> None:
    expected = [v.tobytes() for v in engine.embed([HELLO, WORLD], 0)]

    def work(stream: int) -> bool:
        return all([v.tobytes() for v in engine.embed([HELLO, WORLD], stream)] == expected for _ in range(50))

    with ThreadPoolExecutor(engine.streams) as threads:
        assert list(threads.map(work, range(engine.streams))) == [True, True]


def test_streams_are_one_per_core_unless_set(load: Load) -> None:
    assert load(minilm()).streams == available_cores()


@pytest.mark.parametrize("ids", [[101, 30522, 102], [101, -1, 102], []])
def test_ids_that_the_model_does_not_have_are_refused(engine: Engine, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        engine.embed([HELLO, ids], 0)


def test_the_longest_input_works_and_a_longer_one_is_refused(engine: Engine) -> None:
    (vector,) = engine.embed([[101] * 512], 0)
    assert np.isfinite(np.asarray(vector)).all()
    with pytest.raises(ValueError, match="per position"):
        engine.embed([[101] * 513], 0)


def test_a_padding_token_inside_a_text_has_robertas_position(load: Load, tmp_path: Path) -> None:
    """A text may say "<pad>". XLM-RoBERTa gives it the padding's position, and does not count it."""
    MAKERS["bge-m3"](tmp_path)
    padding = 1
    batch = [[0, 5, padding, padding, 7, 2], [padding, 9], [4, 5, padding], [0, 5, 7, 2]]
    engine = load(read_checkpoint(tmp_path), pooling=Pooling.MEAN, precision="f32", streams=1)
    theirs = embed_with_transformers(tmp_path, batch, "mean")
    np.testing.assert_allclose(np.array(engine.embed(batch, 0)), theirs, atol=2e-5)


def test_pooling_can_be_overridden(load: Load, engine: Engine) -> None:
    by_mean = np.asarray(engine.embed([WORLD], 0)[0])
    for pooling in (Pooling.CLS, Pooling.LAST):
        other = np.asarray(load(minilm(), pooling=pooling, precision="f32", streams=1).embed([WORLD], 0)[0])
        assert by_mean @ other < 0.99


def test_a_checkpoint_without_pooling_needs_one(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"pooling"):
        load(replace(minilm(), pooling=None))


def test_a_missing_weight_is_named(load: Load, tmp_path: Path) -> None:
    for file in minilm().folder.glob("*.json"):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(minilm().folder / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    shutil.copytree(minilm().folder / "1_Pooling", tmp_path / "1_Pooling")
    with pytest.raises(ConfigurationError, match=r"lacks the weight 'encoder\.layer\.6\."):
        load(read_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "table"),
    [
        ("bge-m3", {"vocab_size": 10_000}, "word_embeddings"),
        ("bge-m3", {"max_position_embeddings": 131}, "position_embeddings"),
        ("qwen3", {"vocab_size": 10_000}, "embed_tokens"),
    ],
)
def test_a_table_with_fewer_rows_than_config_json_says_is_refused(
    load: Load, tmp_path: Path, name: str, change: dict[str, int], table: str
) -> None:
    MAKERS[name](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigurationError, match=rf"{table}\.weight has the shape"):
        load(read_checkpoint(tmp_path), streams=1)


@pytest.mark.parametrize(
    ("name", "change", "weight"),
    [
        ("bge-m3", {"intermediate_size": 47}, "intermediate.dense.weight"),
        ("qwen3", {"intermediate_size": 47}, "mlp.gate_proj.weight"),
        ("qwen3", {"num_key_value_heads": 1}, "self_attn.k_proj.weight"),
        ("nemotron-vl", {"head_dim": 16}, "self_attn.q_proj.weight"),
    ],
)
def test_a_weight_of_another_shape_than_config_json_says_is_refused(
    load: Load, tmp_path: Path, name: str, change: dict[str, int], weight: str
) -> None:
    MAKERS[name](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("llm_config", config).update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=rf"{weight} has the shape"):
        load(read_checkpoint(tmp_path), streams=1)
