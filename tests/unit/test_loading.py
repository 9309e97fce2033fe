"""open_models: what is served, what is not, and what is tried again."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs
from tests.tiny_checkpoints import MAKERS

from vectoll import loading
from vectoll.core import residency
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ModelOffline
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


async def test_weights_that_are_slow_to_come_hold_up_no_thread_that_answers_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_end = threading.Event(), threading.Event()

    def fetch_slowly(*_: object) -> int:
        is_asked.set()
        may_end.wait(10)
        return 0

    monkeypatch.setattr(loading, "memory_need", fetch_slowly)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    tiny = settings_for(tmp_path).models[1]
    settings = Settings(models=(NO_DEFAULT, structs.replace(tiny, load="first_use")))
    async with loading.open_models(settings, NoMetrics()) as registry:
        model = await registry.get(registry.resolve("tiny"))
        asking = asyncio.create_task(model.tokenize(["text"]))
        async with asyncio.timeout(5):
            while not is_asked.is_set():  # noqa: ASYNC110 - a thread's event
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(lambda: "answered") == "answered"
        may_end.set()
        with pytest.raises(ModelOffline):
            await asking


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
    told = vars(next(record for record in caplog.records if record.getMessage() == "model_too_large"))
    assert (told["memory_mib"], told["needs_mib"] > 20) == (1, True)
