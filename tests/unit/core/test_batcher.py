"""The batcher on an engine whose every step the test controls."""

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import ClassVar

import numpy as np
import pytest

from vectoll.core.batching import batcher
from vectoll.core.batching.batcher import Batcher
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import AtCapacity, Draining, InferenceFailed
from vectoll.domain.identity import NOBODY, Caller
from vectoll.ports.metrics import NoMetrics

DIMS = 4


def vector_of(ids: Sequence[int]) -> Vector:
    return np.full(DIMS, float(sum(ids)), dtype=np.float32).data.toreadonly()


class GatedEngine:
    """Computes nothing on its streams until the gate opens, and records each batch of theirs; what is beside them it
    computes at once.
    """

    dims = DIMS

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.were_alone: list[bool] = []
        self.callers: list[list[Caller]] = []
        self.fail_on: Callable[[Sequence[Sequence[int]]], bool] = lambda batch: False
        self.forget_on: Callable[[Sequence[Sequence[int]]], bool] = lambda batch: False
        self.known: Callable[[Sequence[int]], int] = lambda ids: 0
        self.computed: Callable[[Sequence[int]], int] = lambda lengths: len(lengths) * max(lengths)
        self.batch_s = 0.0
        self.poison = False
        self.is_closed = False

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        return self.known(ids)

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return self.computed(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        if stream == self.streams:
            return [vector_of(ids) for ids in batch]
        self.started.release()
        assert self.gate.wait(10)
        time.sleep(self.batch_s)
        self.batches.append([sum(ids) for ids in batch])
        self.were_alone.append(is_alone)
        self.callers.append(list(callers))
        if self.fail_on(batch):
            raise RuntimeError("engine broke")
        if self.forget_on(batch):
            return [vector_of(ids) for ids in batch[1:]]
        if self.poison:
            return [np.array([1, np.nan, 0, 0], dtype=np.float32).data for _ in batch]
        return [vector_of(ids) for ids in batch]

    def close(self) -> None:
        self.is_closed = True


class Bench:
    """A batcher over a gated engine."""

    def __init__(self, engine: GatedEngine, metrics: NoMetrics | None = None, **options: float) -> None:
        self.engine = engine
        self.batcher = Batcher(
            engine,
            BatchShape(
                int(options.get("budget_tokens", 64)), query_tokens=int(options.get("query_tokens", 0))
            ),
            model="m",
            max_queue_tokens=int(options.get("max_queue_tokens", 10_000)),
            max_wait_s=options.get("max_wait_s", 1e9),
            metrics=metrics or NoMetrics(),
        )

    def submit(self, caller: str | Caller, *sequences: Sequence[int]) -> "asyncio.Task[list[Vector]]":
        who = Caller.keyless(caller) if isinstance(caller, str) else caller
        return asyncio.create_task(self.batcher.compute(sequences, who))

    async def engine_busy(self) -> None:
        assert await asyncio.to_thread(self.engine.started.acquire, timeout=10)


@pytest.fixture
async def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
async def bench(engine: GatedEngine) -> AsyncIterator[Bench]:
    bench = Bench(engine)
    yield bench
    engine.gate.set()
    await bench.batcher.close()


async def test_vectors_come_back_in_input_order(bench: Bench) -> None:
    bench.engine.gate.set()
    sequences = [[n] * (1 + n * 7 % 40) for n in range(1, 200)]
    vectors = await bench.submit("a", *sequences)
    assert [v[0] for v in vectors] == [sum(ids) for ids in sequences]


async def test_failing_engine_answers_every_waiter_and_goes_on(bench: Bench) -> None:
    bench.engine.fail_on = lambda batch: any(9 in ids for ids in batch)
    bench.engine.gate.set()
    bad = [bench.submit(caller, [9] * 20, *[[1] * 60] * 30) for caller in "abc"]
    outcomes = await asyncio.gather(*bad, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InferenceFailed] * 3
    assert len(set(map(id, outcomes))) == 3, "tasks that raise one error write into one traceback"
    assert len(await bench.submit("a", [1, 2])) == 1


async def test_an_engine_that_answers_too_little_answers_every_waiter_and_goes_on(bench: Bench) -> None:
    bench.engine.forget_on = lambda batch: len(batch) > 1
    bench.engine.gate.set()
    with pytest.raises(InferenceFailed):
        await bench.submit("a", [1], [2])
    assert len(await bench.submit("a", [3])) == 1


def broken(_: Sequence[int]) -> int:
    raise RuntimeError("engine broke")


async def test_an_engine_that_fails_to_say_what_it_knows_computes_all_of_it(bench: Bench) -> None:
    bench.engine.known = broken
    bench.engine.gate.set()
    async with asyncio.timeout(5):
        for _ in range(2):
            assert len(await bench.submit("a", [1], [2])) == 2


async def test_a_query_beside_bulk_is_computed_where_the_engine_fails_to_say_what_it_knows(
    roomy: Bench,
) -> None:
    roomy.engine.known = broken
    bulk = roomy.submit("bulk", *[[1] * 60] * 5)
    async with asyncio.timeout(5):
        await roomy.engine_busy()
        await roomy.engine_busy()
        for _ in range(2):
            assert len(await roomy.submit("single", [2] * 5)) == 1
        roomy.engine.gate.set()
        assert len(await bulk) == 5


class Lost(NoMetrics):
    """Metrics that cannot count."""

    def queued(self, model: str, tokens: int) -> None:
        raise RuntimeError("no metrics")


@pytest.mark.parametrize("metrics", [NoMetrics(), Lost()])
async def test_a_batch_that_cannot_be_counted_is_answered_and_the_worker_goes_on(
    engine: GatedEngine, metrics: NoMetrics
) -> None:
    engine.computed = broken
    bench = Bench(engine, metrics)
    engine.gate.set()
    async with asyncio.timeout(5):
        for _ in range(2):
            assert len(await bench.submit("a", [1])) == 1
        await bench.batcher.close()


async def test_what_the_engine_knows_fills_no_batch_and_is_no_token_computed(engine: GatedEngine) -> None:
    class Noted(NoMetrics):
        batches: ClassVar[list[tuple[int, ...]]] = []

        def batch(
            self, model: str, sequences: int, tokens: int, padded_tokens: int, budget_tokens: int
        ) -> None:
            self.batches.append((sequences, tokens, padded_tokens, budget_tokens))

    engine.known = lambda ids: len(ids) - 2
    shape = BatchShape(64, padded=False, alike=False)
    options = {"model": "m", "max_queue_tokens": 10_000, "max_wait_s": 1e9}
    batcher = Batcher(engine, shape, metrics=Noted(), **options)  # type: ignore[arg-type]
    engine.gate.set()
    await batcher.compute([[1] * 20] * 10, NOBODY)
    await batcher.close()
    assert Noted.batches == [(10, 20, 20, 64)]


async def test_an_engine_is_told_who_sent_what(bench: Bench) -> None:
    waiting = [bench.submit("a", [1], [2]), bench.submit("b", [3])]
    await bench.engine_busy()
    bench.engine.gate.set()
    await asyncio.gather(*waiting)
    senders = {"a": {1, 2}, "b": {3}}
    for sums, callers in zip(bench.engine.batches, bench.engine.callers, strict=True):
        assert all(number in senders[caller.key] for number, caller in zip(sums, callers, strict=True))
    assert sum(map(len, bench.engine.callers)) == 3


async def test_batches_are_alone_until_two_jobs_meet_and_again_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "CALM_S", 1e9)
    engine = bench.engine
    first = bench.submit("a", *[[1] * 60] * 3)
    await bench.engine_busy()
    engine.gate.set()
    await first
    await bench.submit("a", [1])
    assert engine.were_alone == [True] * 4
    engine.started = threading.Semaphore(0)
    engine.gate.clear()
    second = bench.submit("a", [2])
    await bench.engine_busy()
    third = bench.submit("a", [3])
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(second, third)
    await bench.submit("a", [4])
    assert engine.were_alone[4:] == [True, False, False]
    monkeypatch.setattr(batcher, "CALM_S", 0.0)
    await bench.submit("a", [5])
    assert engine.were_alone[7:] == [True]


class Ids(list[int]):
    """That can be waited for to go."""


@pytest.mark.parametrize("poison", [False, True])
async def test_an_idle_worker_keeps_nothing_of_a_request_that_is_over(bench: Bench, *, poison: bool) -> None:
    bench.engine.poison = poison
    bench.engine.gate.set()
    gone = threading.Event()
    ids = Ids([1])
    weakref.finalize(ids, gone.set)
    gc.disable()
    try:
        (outcome,) = await asyncio.gather(bench.submit("a", ids), return_exceptions=True)
        assert isinstance(outcome, InferenceFailed) is poison
        if isinstance(outcome, InferenceFailed):
            outcome.__traceback__ = None  # as whoever answers with it does
        del ids, outcome
        assert await asyncio.to_thread(gone.wait, 5)
    finally:
        gc.enable()


async def test_vector_that_is_not_finite_fails_its_job(bench: Bench) -> None:
    bench.engine.poison = True
    bench.engine.gate.set()
    with pytest.raises(InferenceFailed, match="non-finite"):
        await bench.submit("a", [1])


async def test_cancelled_caller_frees_its_place(bench: Bench) -> None:
    running = bench.submit("first", [1] * 60)
    await bench.engine_busy()
    left = bench.submit("gone", *[[7] * 60] * 50)
    stays = bench.submit("stays", [3] * 60)
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    bench.engine.gate.set()
    await asyncio.gather(running, stays)
    assert bench.engine.batches == [[60], [180]]


async def test_caller_cancelled_in_flight_is_not_answered(bench: Bench) -> None:
    running = bench.submit("gone", [1] * 60)
    await bench.engine_busy()
    running.cancel()
    bench.engine.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await bench.submit("next", [5])) == 1


async def test_single_query_waits_for_the_batch_in_flight_only(bench: Bench) -> None:
    bulk = bench.submit("bulk", *[[1] * 60] * 500)
    await bench.engine_busy()
    single = bench.submit("single", [2] * 5)
    await asyncio.sleep(0)
    bench.engine.gate.set()
    await single
    before_single = bench.engine.batches.index([10])
    assert before_single == 1
    await bulk


async def test_an_account_that_sends_by_twenty_keys_gets_as_much_as_one_that_sends_by_one() -> None:
    bench = Bench(GatedEngine(), budget_tokens=120, max_queue_tokens=10**6)
    running = bench.submit("first", [1] * 60)
    await bench.engine_busy()
    many = [bench.submit(Caller("many", f"many/{n}"), *[[2] * 60] * 40) for n in range(20)]
    one = bench.submit(Caller("one", "one/0"), *[[3] * 60] * 800)
    query = bench.submit(Caller("many", "many/query"), [4] * 60)
    await asyncio.sleep(0)
    bench.engine.gate.set()
    await asyncio.gather(running, one, query, *many)
    callers = [caller for batch in bench.engine.callers for caller in batch]
    half = Counter(caller.account for caller in callers[:801])
    assert abs(half["many"] - half["one"]) <= 3
    keys = Counter(caller.key for caller in callers[:801] if caller.account == "many")
    assert {keys[f"many/{n}"] for n in range(20)} <= {19, 20, 21}
    assert Caller("many", "many/query") in callers[: 2 * 22]
    await bench.batcher.close()


@pytest.fixture
async def roomy() -> AsyncIterator[Bench]:
    bench = Bench(GatedEngine(streams=2), query_tokens=16)
    yield bench
    bench.engine.gate.set()
    await bench.batcher.close()


async def test_single_query_waits_for_no_batch_of_large_requests(roomy: Bench) -> None:
    bulk = roomy.submit("bulk", *[[1] * 60] * 500)
    await roomy.engine_busy()
    await roomy.engine_busy()
    for _ in range(3):
        assert len(await roomy.submit("single", [2] * 5)) == 1
    assert not bulk.done()
    assert not roomy.engine.batches
    roomy.engine.gate.set()
    assert len(await bulk) == 500


async def test_query_of_who_sends_bulk_waits_for_none_of_it(roomy: Bench) -> None:
    bulk = roomy.submit("bulk", *[[1] * 60] * 3)
    await roomy.engine_busy()
    await roomy.engine_busy()
    assert len(await roomy.submit("bulk", [2] * 5)) == 1
    assert not bulk.done()


async def test_query_waits_for_no_stream_when_the_large_request_before_it_is_given_up(roomy: Bench) -> None:
    running = roomy.submit("bulk", [1] * 60, [1] * 60)
    await roomy.engine_busy()
    await roomy.engine_busy()
    before = roomy.submit("gone", [2] * 60)
    query = roomy.submit("query", [3] * 5)
    done, _ = await asyncio.wait([query], timeout=0.1)
    assert not done
    before.cancel()
    async with asyncio.timeout(5):
        assert len(await query) == 1
    assert not running.done()
    roomy.engine.gate.set()
    await running


async def test_query_that_came_before_the_streams_were_taken_waits_for_no_batch(roomy: Bench) -> None:
    queries = [roomy.submit("a", [1] * 15), roomy.submit("a", [1] * 16)]
    await roomy.engine_busy()
    bulk = roomy.submit("bulk", *[[1] * 60] * 500)
    await roomy.engine_busy()
    late = roomy.submit("late", [2] * 5)
    done, _ = await asyncio.wait([late], timeout=0.1)
    assert not done  # the stream with the small batch will take it
    roomy.engine.gate.set()
    await asyncio.gather(bulk, late, *queries)
    assert any(15 in batch or 16 in batch for batch in roomy.engine.batches)


async def test_request_that_is_no_query_waits_for_a_stream(roomy: Bench) -> None:
    bulk = roomy.submit("bulk", *[[1] * 60] * 500)
    await roomy.engine_busy()
    await roomy.engine_busy()
    two = roomy.submit("two", [2] * 9, [2] * 9)
    done, _ = await asyncio.wait([two], timeout=0.1)
    assert not done
    roomy.engine.gate.set()
    assert len(await two) == 2
    await bulk


async def test_close_answers_a_query_that_waits_for_a_stream(roomy: Bench) -> None:
    small = [roomy.submit("a", [1] * 16), roomy.submit("b", [1] * 16)]
    await roomy.engine_busy()
    query = roomy.submit("c", [1] * 5)
    await asyncio.sleep(0)
    closing = asyncio.create_task(roomy.batcher.close(drain_s=10))
    await asyncio.sleep(0)
    roomy.engine.gate.set()
    await closing
    assert [len(vectors) for vectors in await asyncio.gather(*small, query)] == [1, 1, 1]


async def test_full_queue_refuses_at_once() -> None:
    bench = Bench(GatedEngine(), max_queue_tokens=100)
    running = bench.submit("a", [1] * 60)
    await bench.engine_busy()
    waiting = bench.submit("a", [1] * 90)
    await asyncio.sleep(0)
    with pytest.raises(AtCapacity) as refused:
        await bench.submit("a", [1] * 20)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    bench.engine.gate.set()
    await asyncio.gather(running, waiting)
    await bench.batcher.close()


async def test_request_larger_than_the_queue_is_served_when_it_is_alone() -> None:
    bench = Bench(GatedEngine(), max_queue_tokens=100)
    bench.engine.gate.set()
    assert len(await bench.submit("a", *[[1] * 60] * 10)) == 10
    await bench.batcher.close()


async def test_expected_wait_over_the_limit_refuses_the_owner_of_the_backlog_only() -> None:
    bench = Bench(GatedEngine(), max_wait_s=1e-6)
    bench.engine.gate.set()
    await bench.submit("a", [1] * 60)
    bench.engine.gate.clear()
    bench.engine.started.acquire()
    running = bench.submit("a", [1] * 60)
    await bench.engine_busy()
    waiting = bench.submit("a", [1] * 60)
    await asyncio.sleep(0)
    with pytest.raises(AtCapacity):
        await bench.submit("a", [1])
    bench.engine.gate.set()
    await asyncio.gather(running, waiting)
    await bench.batcher.close()


async def test_lone_queries_do_not_make_an_engine_look_too_slow_for_what_fills_its_batches() -> None:
    bench = Bench(GatedEngine(), budget_tokens=1000, max_queue_tokens=100_000, max_wait_s=1.0)
    bench.engine.batch_s = 0.002  # however much is in it
    bench.engine.gate.set()
    for _ in range(20):
        await bench.submit("a", [1])
    large = [bench.submit("a", *[[1] * 100] * 100) for _ in range(3)]
    assert [len(vectors) for vectors in await asyncio.gather(*large)] == [100] * 3
    await bench.batcher.close()


async def test_close_drains_what_waits_then_refuses(bench: Bench) -> None:
    running = bench.submit("a", *[[1] * 60] * 5)
    await bench.engine_busy()
    closing = asyncio.create_task(bench.batcher.close(drain_s=10))
    await asyncio.sleep(0)
    bench.engine.gate.set()
    await closing
    assert len(await running) == 5
    assert bench.engine.is_closed
    with pytest.raises(Draining):
        await bench.submit("late", [1])


async def test_close_without_time_answers_whoever_waits() -> None:
    bench = Bench(GatedEngine())
    running = bench.submit("a", [1] * 60)
    await bench.engine_busy()
    waiting = bench.submit("b", [1] * 60)
    await asyncio.sleep(0)
    closing = asyncio.create_task(bench.batcher.close())
    await asyncio.sleep(0)
    bench.engine.gate.set()
    await closing
    outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Draining, Draining]


async def test_two_streams_work_side_by_side() -> None:
    bench = Bench(GatedEngine(streams=2))
    both = bench.submit("a", [1] * 60, [2] * 60)
    await bench.engine_busy()
    await bench.engine_busy()
    bench.engine.gate.set()
    assert len(await both) == 2
    await bench.batcher.close()
