"""Models in and out of memory."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.fakes import SPEC, FakeEmbeddingModel

from vectoll.core.models import ModelRegistry
from vectoll.core.residency import Residency, ResidentModel
from vectoll.domain.catalog import Catalog, ModelSpec
from vectoll.domain.errors import AtCapacity, Draining, ModelOffline
from vectoll.domain.identity import NOBODY
from vectoll.domain.ids import ModelId
from vectoll.ports.model import EmbeddingModel


class Machine:
    """Models of one byte each, by name, with a diary of what is loaded and unloaded."""

    def __init__(self, budget_bytes: int) -> None:
        self.residency = Residency(budget_bytes)
        self.offline: dict[ModelId, str] = {}
        self.diary: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None

    def model(
        self,
        name: str,
        memory_bytes: int = 1,
        abort: Callable[[], None] | None = None,
        sizes: dict[str, int] | None = None,
    ) -> ResidentModel:
        spec = replace(SPEC, id=ModelId(name), aliases=())

        async def measure() -> int:
            return memory_bytes if sizes is None else sizes[name]

        async def load() -> EmbeddingModel:
            if self.gate:
                await self.gate.wait()
            if name in self.failing:
                raise self.failing[name]
            self.diary.append(f"+{name}")
            return Diarist(spec, self.diary)

        return ResidentModel(spec, measure, load, self.residency, self.offline, abort or (lambda: None))


class Diarist(FakeEmbeddingModel):
    def __init__(self, spec: ModelSpec, diary: list[str]) -> None:
        super().__init__(spec)
        self.diary = diary
        self.close_error: Exception | None = None
        self.close_gate: asyncio.Event | None = None

    async def close(self, drain_s: float = 0.0) -> None:
        if self.close_gate:
            await self.close_gate.wait()
        if self.close_error:
            raise self.close_error
        self.diary.append(f"-{self.spec.id}")


async def use(*models: ResidentModel) -> None:
    for model in models:
        encodings = await model.tokenize(["text"])
        await model.embed(encodings, dimensions=None, caller=NOBODY)


async def test_a_model_is_loaded_on_first_use_and_once() -> None:
    machine = Machine(10)
    model = machine.model("a")
    assert machine.diary == []
    await asyncio.gather(use(model), use(model), use(model))
    assert machine.diary == ["+a"]


async def test_the_least_recently_used_makes_room() -> None:
    machine = Machine(2)
    a, b, c = machine.model("a"), machine.model("b"), machine.model("c")
    await use(a, b, a, c, a, b)
    assert machine.diary == ["+a", "+b", "-b", "+c", "-c", "+b"]


async def test_as_many_leave_as_are_needed() -> None:
    machine = Machine(3)
    small = [machine.model(name) for name in "abc"]
    await use(*small, machine.model("big", 2))
    assert machine.diary == ["+a", "+b", "+c", "-a", "-b", "+big"]


async def test_a_busy_model_is_never_unloaded() -> None:
    machine = Machine(1)
    a, b = machine.model("a"), machine.model("b")
    await a.load()
    inner = a._model
    assert isinstance(inner, FakeEmbeddingModel)
    inner.gate = asyncio.Event()
    request = asyncio.create_task(use(a))
    await inner.started.wait()
    with pytest.raises(AtCapacity):
        await use(b)
    inner.gate.set()
    await request
    await use(b)
    assert machine.diary == ["+a", "-a", "+b"]


async def test_one_that_can_never_fit_is_offline_and_unloads_nobody() -> None:
    machine = Machine(2)
    a, giant = machine.model("a"), machine.model("giant", 3)
    await use(a)
    with pytest.raises(ModelOffline, match="more memory"):
        await use(giant)
    assert machine.diary == ["+a"]
    assert "memory" in machine.offline[ModelId("giant")]


async def test_a_failed_load_is_offline_takes_no_room_and_leaves_the_others_serving() -> None:
    machine = Machine(1)
    a, broken = machine.model("a"), machine.model("broken")
    machine.failing["broken"] = ModelOffline("broken", "its weights are damaged")
    registry = ModelRegistry(
        Catalog([a.spec, broken.spec]), {a.spec.id: a, broken.spec.id: broken}, machine.offline
    )
    assert registry.offline_reason(broken.spec) is None
    for _ in range(2):
        with pytest.raises(ModelOffline, match="damaged"):
            await use(broken)
    assert registry.offline_reason(broken.spec) == "its weights are damaged"
    await use(a)
    assert registry.offline_reason(a.spec) is None
    assert machine.diary == ["+a"]


async def test_a_failed_load_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectoll.core.residency.RETRY_LOADING_S", 0.0)
    machine = Machine(1)
    a = machine.model("a")
    machine.failing["a"] = ModelOffline("a", "not yet")
    with pytest.raises(ModelOffline):
        await use(a)
    machine.failing.clear()
    await use(a)
    assert machine.offline == {}


async def test_a_model_that_is_lost_is_offline_for_all_and_closed_when_nobody_waits_for_it() -> None:
    machine = Machine(1)
    a = machine.model("a", 0)
    await a.load()
    lost = a._model
    assert isinstance(lost, Diarist)
    lost.error = machine.failing["a"] = ModelOffline("a", "deleted")
    with pytest.raises(ModelOffline, match="deleted"):
        await use(a)
    assert a._loading, "whether it is back is asked at once"
    await asyncio.wait([a._loading])
    assert machine.offline == {a.spec.id: "deleted"}
    assert machine.diary == ["+a", "-a"]


async def test_a_model_that_is_back_at_once_is_served_at_once() -> None:
    machine = Machine(1)
    a = machine.model("a", 0)
    await a.load()
    lost = a._model
    assert isinstance(lost, Diarist)
    lost.gate, lost.error = asyncio.Event(), ModelOffline("a", "deployed anew")
    losers = [asyncio.create_task(use(a)) for _ in range(3)]
    await lost.started.wait()
    lost.gate.set()
    await asyncio.wait(losers)
    await use(a)
    assert machine.offline == {}
    assert sorted(machine.diary) == ["+a", "+a", "-a"]
    await a.close()
    assert sorted(machine.diary) == ["+a", "+a", "-a", "-a"]


async def test_closing_waits_for_a_model_that_was_lost_to_be_closed() -> None:
    machine = Machine(1)
    a = machine.model("a", 0)
    await a.load()
    lost = a._model
    assert isinstance(lost, Diarist)
    lost.error, lost.close_gate = ModelOffline("a", "deleted"), asyncio.Event()
    with pytest.raises(ModelOffline):
        await use(a)
    closing = asyncio.create_task(a.close())
    await asyncio.wait([closing], timeout=0.05)
    assert not closing.done()
    lost.close_gate.set()
    await closing
    assert sorted(machine.diary) == ["+a", "+a", "-a", "-a"]


async def test_a_bug_while_loading_reaches_every_waiter_and_is_not_remembered() -> None:
    machine = Machine(1)
    a = machine.model("a")
    machine.failing["a"] = ZeroDivisionError()
    results = await asyncio.gather(use(a), use(a), return_exceptions=True)
    assert [type(r) for r in results] == [ZeroDivisionError] * 2
    machine.failing.clear()
    await use(a)


async def test_a_waiter_that_gives_up_does_not_stop_the_load() -> None:
    machine = Machine(1)
    machine.gate = asyncio.Event()
    a = machine.model("a")
    first, second = asyncio.create_task(use(a)), asyncio.create_task(use(a))
    await asyncio.sleep(0)
    first.cancel()
    machine.gate.set()
    await second
    assert first.cancelled()
    assert machine.diary == ["+a"]


async def test_closing_frees_the_model_also_one_that_is_being_loaded() -> None:
    machine = Machine(2)
    machine.gate = asyncio.Event()
    a = machine.model("a")
    request = asyncio.create_task(use(a))
    await asyncio.sleep(0)
    closing = asyncio.create_task(a.close())
    await asyncio.sleep(0)
    machine.gate.set()
    await closing
    assert machine.diary == ["+a", "-a"]
    await asyncio.gather(request, return_exceptions=True)
    with pytest.raises(Draining):
        await use(a)


async def test_under_contention_the_budget_holds_and_everyone_is_answered() -> None:
    machine = Machine(2)
    models = [machine.model(name) for name in "abcde"]

    async def work(order: Sequence[int]) -> int:
        served = 0
        for index in order:
            try:
                await use(models[index])
                served += 1
            except AtCapacity:
                await asyncio.sleep(0)
        return served

    served = await asyncio.gather(*(work([(i * k) % 5 for i in range(20)]) for k in (1, 2, 3, 4)))
    assert sum(served) > 0
    inside = 0
    for entry in machine.diary:
        inside += 1 if entry[0] == "+" else -1
        assert 0 <= inside <= 2


async def test_one_that_was_loaded_for_nobody_is_still_accounted_for_and_can_be_used() -> None:
    """Who asked for it left while it was loading, and another waits for its room."""
    machine = Machine(1)
    machine.gate = asyncio.Event()
    a, b = machine.model("a"), machine.model("b")
    leaver = asyncio.create_task(use(a))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    other = asyncio.create_task(use(b))
    for _ in range(5):
        await asyncio.sleep(0)
    machine.gate.set()
    await other
    assert machine.diary == ["+a", "-a", "+b"], "a is out of memory before b comes in"
    await use(a, b)
    assert machine.diary == ["+a", "-a", "+b", "-b", "+a", "-a", "+b"]


async def test_closing_does_not_begin_the_loads_that_wait_for_their_turn() -> None:
    machine = Machine(2)
    machine.gate = asyncio.Event()
    models = [machine.model(name) for name in "ab"]
    requests = [asyncio.create_task(use(model)) for model in models]
    for _ in range(5):
        await asyncio.sleep(0)
    closing = asyncio.gather(*(model.close() for model in models))
    await asyncio.sleep(0)
    machine.gate.set()
    await closing
    assert machine.diary == ["+a", "-a"]
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(result) for result in results][1:] == [Draining]


async def test_closing_tells_a_load_to_stop() -> None:
    machine = Machine(1)
    machine.gate = asyncio.Event()
    a = machine.model("a", abort=machine.gate.set)
    machine.failing["a"] = ModelOffline("a", "told to stop")
    request = asyncio.create_task(use(a))
    for _ in range(5):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await a.close()
    with pytest.raises(ModelOffline, match="told to stop"):
        await request


async def test_memory_is_free_again_also_when_unloading_fails() -> None:
    machine = Machine(1)
    a, b = machine.model("a"), machine.model("b")
    await use(a)
    assert isinstance(a._model, Diarist)
    a._model.close_error = RuntimeError("the driver is gone")
    with pytest.raises(RuntimeError):
        await use(b)
    await use(b)
    assert machine.diary == ["+a", "+b"]


async def test_a_size_that_changed_meanwhile_does_not_upset_the_sum() -> None:
    """The weights on disk are replaced by larger ones while the model is in memory."""
    machine = Machine(3)
    sizes = {"a": 1}
    a, b = machine.model("a", sizes=sizes), machine.model("b", 3)
    await use(a)
    assert isinstance(a._model, Diarist)
    a._model.close_gate = asyncio.Event()
    closing = a._model.close_gate
    other = asyncio.create_task(use(b))
    for _ in range(5):
        await asyncio.sleep(0)
    sizes["a"] = 2
    again = asyncio.create_task(use(a))
    for _ in range(5):
        await asyncio.sleep(0)
    closing.set()
    await asyncio.gather(other, again, return_exceptions=True)  # who is late finds the other busy
    await use(a)
    assert machine.residency._used_bytes == 2


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_in_whatever_order_the_books_are_right(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loads that fail, users who leave, steps that take turns at random."""
    monkeypatch.setattr("vectoll.core.residency.RETRY_LOADING_S", 0.0)
    rng = random.Random(seed)
    machine = Machine(rng.choice([1, 2, 3]))
    models = [machine.model(name, rng.choice([1, 1, 2])) for name in "abcd"]

    async def hop() -> None:
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(0)

    def unsteady(model: ResidentModel) -> None:
        measure, load = model._measure, model._load

        async def measure_late() -> int:
            await hop()
            return await measure()

        async def load_late() -> EmbeddingModel:
            await hop()
            if rng.random() < 0.15:
                raise rng.choice([ModelOffline(model.spec.id, "gone"), ZeroDivisionError()])
            return await load()

        model._measure, model._load = measure_late, load_late

    async def user() -> None:
        for _ in range(rng.randint(1, 8)):
            with suppress(AtCapacity, ModelOffline, ZeroDivisionError):
                await use(rng.choice(models))
            await hop()

    for model in models:
        unsteady(model)
    users = [asyncio.create_task(user()) for _ in range(6)]
    for _ in range(6):
        await hop()
        rng.choice(users).cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*users, return_exceptions=True)
        loads = [model._loading for model in models if model._loading]
        await asyncio.gather(*loads, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
    inside = [model for model in models if model._model is not None]
    assert set(machine.residency._residents) == {model.spec.id for model in inside}
    assert machine.residency._used_bytes == sum(model.memory_bytes for model in inside)
    assert not any(model.is_busy for model in models)
    await asyncio.gather(*(model.close() for model in models))
    assert sum(1 if entry[0] == "+" else -1 for entry in machine.diary) == 0
