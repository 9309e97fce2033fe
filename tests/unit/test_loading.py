"""open_models: what is served, what is not, and what is tried again."""

import asyncio
from pathlib import Path

import pytest
from tests.tiny_checkpoints import MAKERS

from vectoll import loading
from vectoll.core import residency
from vectoll.domain.catalog import Pooling
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import ClusterSettings, EngineSettings, ModelSettings, Settings

NO_DEFAULT = ModelSettings(id="all-MiniLM-L6-v2", enabled=False)


def settings_for(folder: Path) -> Settings:
    tiny = ModelSettings(id="tiny", path=str(folder), pooling=Pooling.LAST, dims=32, max_tokens=64)
    return Settings(models=(NO_DEFAULT, tiny))


async def test_model_that_could_not_be_loaded_is_tried_again_while_none_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "RETRY_LOADING_S", 0.05)
    monkeypatch.setattr(residency, "RETRY_LOADING_S", 0.01)
    async with loading.open_models(settings_for(tmp_path / "tiny"), NoMetrics()) as registry:
        assert registry.why_none == "tiny: it could not be loaded"
        (tmp_path / "tiny").mkdir()
        MAKERS["qwen3"](tmp_path / "tiny")
        async with asyncio.timeout(20):
            while registry.why_none:  # noqa: ASYNC110 - nobody asks for the model: that is the point
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("defect", [KeyError("layers"), ImportError("libfoo.so"), AssertionError()])
async def test_whatever_an_engine_raises_only_its_model_is_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, defect: Exception
) -> None:
    def broken(*_: object) -> None:
        raise defect

    monkeypatch.setattr(loading, "load_engine", broken)
    async with loading.open_models(Settings(), NoMetrics()) as registry:
        assert registry.why_none == "all-MiniLM-L6-v2: it could not be loaded"
    assert type(defect).__name__ in caplog.text


async def test_nothing_can_be_used_on_a_cluster_that_cannot_be_reached() -> None:
    engine, cluster = EngineSettings(backend="ray"), ClusterSettings(route="http")  # without urls
    async with loading.open_models(Settings(engine=engine, cluster=cluster), NoMetrics()) as registry:
        assert registry.usable == ()
        assert registry.why_none == "all-MiniLM-L6-v2: it could not be loaded"


async def test_no_model_is_switched_on(caplog: pytest.LogCaptureFixture) -> None:
    async with loading.open_models(Settings(models=(NO_DEFAULT,)), NoMetrics()) as registry:
        assert registry.why_none == "no model is switched on"
    assert [record.getMessage() for record in caplog.records] == ["no_model_served"]


async def test_model_without_room_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(engine=EngineSettings(memory_mib=1))
    async with loading.open_models(settings, NoMetrics()) as registry:
        assert registry.why_none == "all-MiniLM-L6-v2: it needs more memory than this server may use"
    assert "all models together may take 1 (engine.memory_mib)" in caplog.text
