"""Which engine computes a model, and that torch is imported only for a GPU that is there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from tests.cpu import needs_avx2
from tests.tiny_checkpoints import MAKERS

from vectoll import engines
from vectoll.adapters.engines.cores import LARGE_PARAMETERS, available_cores, streams_and_cores
from vectoll.adapters.engines.openvino import OpenVinoEngine
from vectoll.adapters.engines.torch import TorchEngine
from vectoll.catalog_file import read_models
from vectoll.domain.catalog import CheckpointFacts, ModelSpec, Pooling, Precision
from vectoll.domain.errors import ConfigurationError
from vectoll.loading import open_models
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import EngineSettings, ModelSettings, Settings


def tiny(folder: Path, name: str = "qwen3", **how: str) -> ModelSpec:
    MAKERS[name](folder)
    entry = ModelSettings(id="tiny", path=str(folder), **how)  # type: ignore[arg-type]
    facts = CheckpointFacts("", Pooling.LAST, 32, 128)
    return read_models(Settings(models=(entry,)), lambda *_: facts).catalog["tiny"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as far as the choice goes; the engine computes on torch's CPU."""
    from vectoll.adapters.engines import torch as package

    monkeypatch.setattr(engines, "_gpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000_000, 4_000_000))
    real = package.load_engine
    monkeypatch.setattr(package, "load_engine", lambda *a, **how: real(*a, **{**how, "device": "cpu"}))


def test_auto_is_the_cpu_without_a_gpu_and_torch_is_not_even_imported(tmp_path: Path) -> None:
    MAKERS["qwen3"](tmp_path)
    code = f"""
import asyncio, sys
from vectoll.loading import open_models
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import ModelSettings, Settings
async def main():
    settings = Settings(models=(ModelSettings(id="tiny", path={str(tmp_path)!r}),))
    async with open_models(settings, NoMetrics()) as registry:
        await (await registry.get(registry.resolve("tiny"))).tokenize(["text"])
asyncio.run(main())
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cls_pooling_of_a_causal_model_is_refused(tmp_path: Path) -> None:
    """Every text would have the same vector."""
    with pytest.raises(ConfigurationError, match="cls reads the first token, which in a causal"):
        engines.open_checkpoint(tiny(tmp_path, "bge-en-icl", pooling=Pooling.CLS))


@pytest.mark.usefixtures("gpu")
def test_auto_is_the_gpu_where_torch_and_one_are_there(tmp_path: Path) -> None:
    spec = tiny(tmp_path)
    loaded = engines.load_engine(spec, EngineSettings())
    assert isinstance(loaded.engine, TorchEngine)
    assert not loaded.shape.padded
    assert loaded.shape.budget_tokens == loaded.engine.max_batch_tokens
    on_cpu = engines.load_engine(spec, EngineSettings(device="cpu", precision="f32"))
    assert on_cpu.runtime in ("native", "openvino")
    batch = [[5, 6, 7, 0], [9, 0]]
    ours, theirs = (np.array(e.engine.embed(batch, 0)) for e in (loaded, on_cpu))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures("gpu")
def test_the_batch_budget_is_the_operators_where_set(tmp_path: Path) -> None:
    loaded = engines.load_engine(tiny(tmp_path), EngineSettings(batch_tokens=777))
    assert loaded.shape.budget_tokens == 777


def test_a_large_model_gets_fewer_streams_of_more_cores_unless_the_operator_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, on_cpu = tiny(tmp_path), EngineSettings(device="cpu")
    assert engines.load_engine(spec, on_cpu).engine.streams == available_cores()
    monkeypatch.setattr("vectoll.adapters.engines.cores.LARGE_PARAMETERS", 1)
    assert engines.load_engine(spec, on_cpu).engine.streams == max(1, available_cores() // 4)
    assert engines.load_engine(spec, EngineSettings(device="cpu", streams=3)).engine.streams == 3
    assert engines.load_engine(spec, EngineSettings(device="cpu", cores=9)).engine.streams == 2


@pytest.mark.parametrize(
    ("given", "found"),
    [((0, 0), (4, 4)), ((0, 6), (6, 6)), ((3, 0), (3, 3)), ((3, 6), (3, 6)), ((3, 2), (3, 3))],
)
def test_streams_and_cores_follow_from_each_other(
    monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], found: tuple[int, int]
) -> None:
    monkeypatch.setattr("vectoll.adapters.engines.cores.available_cores", lambda: 4)
    assert streams_and_cores(1_000, *given) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [((0, 0), (1, 4)), ((0, 3), (1, 3)), ((0, 8), (2, 8)), ((1, 4), (1, 4)), ((2, 0), (2, 2))],
)
def test_a_large_models_streams_have_several_cores(
    monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], found: tuple[int, int]
) -> None:
    monkeypatch.setattr("vectoll.adapters.engines.cores.available_cores", lambda: 4)
    assert streams_and_cores(LARGE_PARAMETERS, *given) == found


@pytest.mark.usefixtures("gpu")
def test_memory_on_the_gpu_is_the_gpus_and_a_weight_takes_what_the_arithmetic_takes(tmp_path: Path) -> None:
    spec = tiny(tmp_path, "bge-en-icl")
    assert engines.memory_budget(EngineSettings()) == 3_000_000
    assert engines.memory_budget(EngineSettings(memory_mib=1)) == 2**20
    on_disk = engines.memory_need(spec, EngineSettings(device="cpu"))
    assert engines.memory_need(spec, EngineSettings()) == pytest.approx(on_disk / 2, rel=0.1)
    assert engines.memory_need(spec, EngineSettings(precision="f32")) == pytest.approx(on_disk, rel=0.1)


@pytest.mark.parametrize(
    ("name", "cpu_engine", "times"),
    [
        ("qwen3", "openvino", 4),
        pytest.param("qwen3", "native", 2, marks=needs_avx2),
        ("e5", "openvino", 4),
        pytest.param("e5", "native", 2, marks=needs_avx2),
        ("bge-en-icl", "auto", 1),
    ],
)
def test_weights_of_16_bits_take_more_on_a_cpu_that_computes_in_f32(
    tmp_path: Path, name: str, cpu_engine: Literal["auto", "native", "openvino"], times: int
) -> None:
    spec = tiny(tmp_path, name)
    on_disk = engines.weights_size(spec)
    settings = EngineSettings(device="cpu", precision="f32", cpu_engine=cpu_engine)
    assert engines.memory_need(spec, settings) == times * on_disk


@pytest.mark.usefixtures("gpu")
def test_what_only_the_cpu_engine_can_do_stays_there_unless_the_operator_insists(tmp_path: Path) -> None:
    spec = tiny(tmp_path, precision=Precision.INT8)
    assert isinstance(engines.load_engine(spec, EngineSettings()).engine, OpenVinoEngine)
    with pytest.raises(ConfigurationError, match=r"int8 is for the CPU, and setting engine\.device is cuda"):
        engines.load_engine(spec, EngineSettings(device="cuda"))
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    spec = tiny_graph(tmp_path)
    with pytest.raises(ConfigurationError, match="only a graph"):
        engines.load_engine(spec, EngineSettings(device="cuda"))


def tiny_graph(folder: Path) -> ModelSpec:
    entry = ModelSettings(id="tiny", path=str(folder))
    return read_models(
        Settings(models=(entry,)), lambda *_: CheckpointFacts("", Pooling.LAST, 32, 128)
    ).catalog["tiny"]


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda m: m.setattr("importlib.util.find_spec", lambda name: None), "torch is not installed; pip"),
        (lambda m: m.setattr(engines, "_gpus", lambda: 0), "no NVIDIA GPU is visible"),
        (
            lambda m: (
                m.setattr(engines, "_gpus", lambda: 1),
                m.setattr(torch.cuda, "is_available", lambda: False),
            ),
            "not built for this GPU",
        ),
    ],
)
async def test_cuda_without_what_it_needs_ends_the_start_with_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    break_it: object,
    why: str,
) -> None:
    break_it(monkeypatch)  # type: ignore[operator]
    settings = Settings(engine=EngineSettings(device="cuda"))
    with pytest.raises(ConfigurationError, match=r"setting engine\.device: cuda cannot be used") as refusal:
        async with open_models(settings, NoMetrics()):
            pass
    assert why in str(refusal.value)
    assert engines.choose_device(EngineSettings(device="auto")) == "cpu"
    assert engines.choose_device(EngineSettings(device="cpu")) == "cpu"


def test_the_driver_is_asked_without_torch() -> None:
    expected = torch.cuda.device_count() if torch.version.cuda else 0
    assert engines._gpus() >= expected


def test_a_checkpoint_with_a_default_prompt_is_served_only_where_the_operator_says_what_is_put_before_texts(
    tmp_path: Path,
) -> None:
    said = {"prompts": {"document": 'say "it": '}, "default_prompt_name": "document"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(said))
    with pytest.raises(ConfigurationError, match="setting prompt: ") as refused:
        engines.open_checkpoint(tiny(tmp_path))
    assert r'prompt = "say \"it\": "' in str(refused.value)
    for prompt in ("", 'say "it": '):
        assert engines.open_checkpoint(tiny(tmp_path, prompt=prompt)).dims == 32


def test_a_prompt_that_is_not_to_be_pooled_is_refused(tmp_path: Path) -> None:
    mean = tiny(tmp_path, "e5", pooling=Pooling.MEAN, prompt="query: ")
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ConfigurationError, match="include_prompt"):
        engines.open_checkpoint(mean)
    for spec in (replace(mean, prompt=""), replace(mean, pooling=Pooling.CLS)):
        assert engines.open_checkpoint(spec).dims == 32
