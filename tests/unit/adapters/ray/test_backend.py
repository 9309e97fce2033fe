"""A cluster's replicas as one backend, over a route that does as it is told."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.fakes import SPEC

from vectoll.adapters.engines.ray import backend as backend_module
from vectoll.adapters.engines.ray.backend import MAX_TRIES, PARALLEL_PARTS, ClusterBackend, Tuning
from vectoll.adapters.engines.ray.frames import (
    Outcome,
    Question,
    decode_question,
    encode_answer,
    encode_difference,
    encode_refusal,
)
from vectoll.adapters.engines.ray.routes import Full, NotServed, Unreachable
from vectoll.domain.errors import AtCapacity, Draining, InferenceFailed, ModelOffline, Unavailable
from vectoll.domain.identity import Caller

TUNING = Tuning(part_tokens=100, parts_in_flight=4, max_queued=64, max_wait_s=5.0, timeout_s=5.0)


def vector(ids: list[int]) -> memoryview:
    """Tells sequences apart."""
    row = np.zeros(SPEC.dims, dtype="<f4")
    row[: len(ids)] = ids
    return row.data.toreadonly()


def right(asked: Question) -> bytes:
    return encode_answer([vector(list(s)) for s in asked.sequences], SPEC.dims)


@dataclass
class FakeRoute:
    """Answers by ``plan``, one entry a question, then rightly. A closed ``gate`` keeps questions waiting."""

    plan: list[Exception | Callable[[Question], bytes]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    asked: list[Question] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0
    is_closed: bool = False
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5), self.news:
            await self.news.wait_for(lambda: len(self.asked) >= times)

    async def ask(self, question: bytes) -> bytes:
        asked = decode_question(question)
        async with self.news:
            self.asked.append(asked)
            self.news.notify_all()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        step = self.plan.pop(0) if self.plan else right
        if isinstance(step, Exception):
            raise step
        return step(asked)

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "PAUSE_S", 0.0)


async def compute(route: FakeRoute, *sequences: list[int], tuning: Tuning = TUNING) -> list[list[int]]:
    found = await ClusterBackend(SPEC, route, tuning).compute(sequences, Caller.keyless("key_1"))
    return [[int(x) for x in v][: len(s)] for v, s in zip(found, sequences, strict=True)]


async def test_vectors_come_back_in_order_although_parts_travel_apart() -> None:
    route = FakeRoute()
    sequences = [[n] * (1 + n * 7 % 30) for n in range(64)]
    assert await compute(route, *sequences) == sequences
    assert len(route.asked) > 4
    assert {asked.caller for asked in route.asked} == {Caller.keyless("key_1")}


async def test_one_request_has_a_bounded_number_of_parts_under_way() -> None:
    route = FakeRoute()
    tuning = Tuning(part_tokens=1, parts_in_flight=999, max_queued=999, max_wait_s=5, timeout_s=5)
    await compute(route, *[[1]] * 100, tuning=tuning)
    assert route.most_in_flight == PARALLEL_PARTS


async def test_short_query_overtakes_a_bulk_request_that_waits() -> None:
    """The bulk holds all places and has more in line: the next free place is the query's."""
    gate = asyncio.Event()
    route = FakeRoute(gate=gate)
    backend = ClusterBackend(SPEC, route, TUNING)
    bulk = asyncio.create_task(backend.compute([[1] * 100] * 50, Caller.keyless("bulk")))
    await route.until_asked(TUNING.parts_in_flight)
    query = asyncio.create_task(backend.compute([[2]], Caller.keyless("query")))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(bulk, query)
    callers = [asked.caller for asked in route.asked]
    assert callers.index(Caller.keyless("query")) <= TUNING.parts_in_flight + 1


@pytest.mark.parametrize(
    "failure",
    [
        Unreachable("ActorDiedError"),
        TimeoutError(),
        Full(),
        lambda _: encode_refusal(Outcome.LEAVING),
        lambda _: encode_refusal(Outcome.FULL, 3),
        lambda _: b"noise",
        lambda asked: right(asked)[:-4],
        lambda asked: right(asked) + right(asked)[16:],
        lambda asked: encode_answer([vector([1])], SPEC.dims + 1),
        lambda asked: encode_answer([np.full(SPEC.dims, np.nan, "<f4").data], SPEC.dims),
    ],
)
async def test_part_that_fails_is_asked_again(failure: Exception | Callable[[Question], bytes]) -> None:
    route = FakeRoute(plan=[failure])
    assert await compute(route, [7]) == [[7]]
    assert len(route.asked) == 2


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Unreachable("gone"), Unavailable),
        (TimeoutError(), Unavailable),
        (Full(4), AtCapacity),
        (lambda _: b"noise", InferenceFailed),
    ],
)
async def test_tries_are_bounded(
    failure: Exception | Callable[[Question], bytes], told: type[Exception]
) -> None:
    route = FakeRoute(plan=[failure] * 9)
    with pytest.raises(told):
        await compute(route, [7])
    assert len(route.asked) == MAX_TRIES


async def test_full_says_when_to_come_back() -> None:
    with pytest.raises(AtCapacity) as refused:
        await compute(FakeRoute(plan=[lambda _: encode_refusal(Outcome.FULL, 9)] * 3), [7])
    assert refused.value.retry_after_s == 9


async def test_what_no_replica_can_mend_is_not_asked_again() -> None:
    route = FakeRoute(plan=[lambda _: encode_refusal(Outcome.FAILED)])
    with pytest.raises(InferenceFailed):
        await compute(route, [7])
    assert len(route.asked) == 1


async def test_model_that_one_cluster_lacks_is_asked_for_at_another() -> None:
    route = FakeRoute(plan=[NotServed("not deployed")])
    assert await compute(route, [7]) == [[7]]


async def test_model_that_is_deployed_nowhere_is_offline() -> None:
    route = FakeRoute(plan=[NotServed("not deployed")] * MAX_TRIES)
    with pytest.raises(ModelOffline, match="not deployed"):
        await compute(route, [7])


async def test_replica_that_hangs_is_given_up() -> None:
    tuning = Tuning(part_tokens=100, parts_in_flight=4, max_queued=4, max_wait_s=5, timeout_s=0.01)
    route = FakeRoute(gate=asyncio.Event())
    with pytest.raises(Unavailable):
        await compute(route, [7], tuning=tuning)
    assert route.cancelled == MAX_TRIES


async def test_too_many_waiting_parts_are_refused_at_once() -> None:
    tuning = Tuning(part_tokens=100, parts_in_flight=1, max_queued=2, max_wait_s=5, timeout_s=5)
    route = FakeRoute(gate=asyncio.Event())
    backend = ClusterBackend(SPEC, route, tuning)
    waiting = [asyncio.create_task(backend.compute([[1]], Caller.keyless(f"key_{n}"))) for n in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(AtCapacity):
        await backend.compute([[1]], Caller.keyless("key_9"))
    assert route.gate is not None
    route.gate.set()
    await asyncio.gather(*waiting)


async def test_caller_who_leaves_cancels_what_is_under_way() -> None:
    route = FakeRoute(gate=asyncio.Event())
    work = asyncio.create_task(compute(route, *[[1] * 100] * 3))
    await route.until_asked(3)
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work
    assert (route.cancelled, route.in_flight) == (3, 0)


async def test_failure_of_one_part_cancels_the_others() -> None:
    route = FakeRoute(plan=[lambda _: encode_refusal(Outcome.FAILED)])
    with pytest.raises(InferenceFailed):
        await compute(route, *[[1] * 100] * 40)
    assert len(route.asked) < 40


async def test_close_lets_requests_finish() -> None:
    route = FakeRoute(gate=asyncio.Event())
    backend = ClusterBackend(SPEC, route, TUNING)
    work = asyncio.create_task(backend.compute([[1]], Caller.keyless("key_1")))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(backend.close(5))
    await asyncio.sleep(0.01)
    with pytest.raises(Draining):
        await backend.compute([[1]], Caller.keyless("key_1"))
    assert route.gate is not None
    route.gate.set()
    assert len(await work) == 1
    await closing
    assert route.is_closed


async def test_close_cuts_off_what_takes_too_long() -> None:
    route = FakeRoute(gate=asyncio.Event())
    backend = ClusterBackend(SPEC, route, TUNING)
    work = [asyncio.create_task(backend.compute([[1] * 100] * n, Caller.keyless("key_1"))) for n in (1, 3)]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await backend.close(0.01)
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        assert isinstance(outcome, Draining)
    assert route.in_flight == 0


async def test_replicas_with_other_settings_are_not_believed() -> None:
    different = encode_difference(["precision", "revision"])
    route = FakeRoute(plan=[lambda _: different] * MAX_TRIES)
    with pytest.raises(ModelOffline, match="replicas were deployed with another precision, revision"):
        await compute(route, [7])
    assert len(route.asked) == MAX_TRIES


async def test_a_replica_that_was_replaced_already_is_asked_in_the_place_of_one_that_was_not() -> None:
    assert await compute(FakeRoute(plan=[lambda _: encode_difference(["pooling"])]), [7]) == [[7]]


async def test_a_backend_says_with_each_question_what_it_takes_the_model_to_be() -> None:
    route, marks = FakeRoute(), {"pooling": "mean"}
    await ClusterBackend(SPEC, route, TUNING, marks=marks).compute([[1] * 100] * 3, Caller.keyless("key_1"))
    assert [asked.marks for asked in route.asked] == [marks] * 3


async def test_a_check_tells_replicas_that_differ_from_those_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await ClusterBackend(SPEC, FakeRoute(), TUNING).check()
    differing = FakeRoute(plan=[lambda _: encode_difference(["dims"])] * MAX_TRIES)
    with pytest.raises(ModelOffline, match="another dims"):
        await ClusterBackend(SPEC, differing, TUNING).check()
    await ClusterBackend(SPEC, FakeRoute(plan=[Unreachable("gone")] * MAX_TRIES), TUNING).check()
    monkeypatch.setattr(backend_module, "CHECK_TIMEOUT_S", 0.01)
    await ClusterBackend(SPEC, FakeRoute(gate=asyncio.Event()), TUNING).check()


async def test_trace_travels_with_each_part() -> None:
    @contextmanager
    def onward(name: str) -> Iterator[Mapping[str, str]]:
        yield {"traceparent": f"00-{name}"}

    route = FakeRoute()
    await ClusterBackend(SPEC, route, TUNING, onward).compute([[1] * 100] * 3, Caller.keyless("key_1"))
    assert [asked.headers for asked in route.asked] == [{"traceparent": "00-replica"}] * 3
