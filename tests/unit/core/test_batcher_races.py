"""The batcher under whatever comes and goes: no work waits beside an idle worker, and every waiter is answered."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from vectoll.core.batching.batcher import Batcher
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import Draining, InferenceFailed
from vectoll.domain.identity import Caller
from vectoll.ports.metrics import NoMetrics

STREAMS = 3
BUDGET_TOKENS = 64
QUERY_TOKENS = 16
CALLERS = [Caller(account, f"{account}/{key}") for account in "abcd" for key in range(3)]
STEPS = 400
BOUND_S = 5
"""Reached only by what would wait for ever."""
PATIENCE = 10 * len(CALLERS)
"""How many batches may begin while a query waits, of about 600 in all: in truth 40, and 400 while a large one does."""


def vector_of(ids: Sequence[int]) -> Vector:
    return np.full(2, float(ids[0]), dtype=np.float32).data.toreadonly()


class Engine:
    """Hands out a vector of each sequence's first id, when its ``compute`` returns."""

    dims = 2
    streams = STREAMS

    def __init__(self, compute: Callable[[Sequence[Sequence[int]], int], None]) -> None:
        self.compute = compute
        self.is_closed = False

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return sum(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        self.compute(batch, stream)
        return [vector_of(ids) for ids in batch]

    def close(self) -> None:
        self.is_closed = True


def batcher_on(engine: Engine, *, alike: bool) -> Batcher:
    shape = BatchShape(BUDGET_TOKENS, padded=alike, alike=alike, query_tokens=QUERY_TOKENS)
    return Batcher(engine, shape, model="m", max_queue_tokens=10**9, max_wait_s=1e9, metrics=NoMetrics())


class Jobs:
    """Random ones. A sequence begins with its number, by which everybody knows it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._numbers = count(1)
        self.queries: set[int] = set()

    def next(self) -> list[list[int]]:
        if self._rng.random() < 0.4:
            query = next(self._numbers)
            self.queries.add(query)
            return [[query] * self._rng.randint(1, QUERY_TOKENS)]
        lengths = [self._rng.randint(1, 80) for _ in range(self._rng.randint(0, 3))]
        return [[next(self._numbers)] * length for length in [BUDGET_TOKENS, *lengths]]


class Stage:
    """What waits and what is computed, as the engine sees it. A batch is done when the test says so."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self.running: dict[int, set[int]] = {}
        self._is_open = False

    def compute(self, batch: Sequence[Sequence[int]], stream: int) -> None:
        numbers = {ids[0] for ids in batch}
        with self._changed:
            self._waiting -= numbers
            self.running[stream] = numbers
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open or stream not in self.running)
            self.running.pop(stream, None)

    def comes(self, sequences: Sequence[Sequence[int]]) -> None:
        with self._changed:
            self._waiting |= {ids[0] for ids in sequences}

    def left(self, sequences: Sequence[Sequence[int]]) -> None:
        with self._changed:
            self._waiting -= {ids[0] for ids in sequences}

    def finish(self, stream: int) -> None:
        with self._changed:
            del self.running[stream]
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def settle(self) -> None:
        """Until nothing that could be computed waits."""
        with self._changed:
            is_busy = self._changed.wait_for(self._is_busy, BOUND_S)
        if not is_busy:
            self.open()
        assert is_busy, f"{self._waiting} wait while {self.running} run"

    def _is_busy(self) -> bool:
        if not self._waiting:
            return True
        if len(self.running.keys() - {STREAMS}) < STREAMS:
            return False
        are_large = all(self.running[stream] - self._jobs.queries for stream in range(STREAMS))
        return STREAMS in self.running or not are_large or bool(self._waiting - self._jobs.queries)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_waits_beside_an_idle_worker_whatever_comes_and_goes(seed: int, *, alike: bool) -> None:
    rng = random.Random(seed)
    jobs = Jobs(rng)
    stage = Stage(jobs)
    engine = Engine(stage.compute)
    batcher = batcher_on(engine, alike=alike)
    waiters: dict[asyncio.Task[list[Vector]], list[list[int]]] = {}
    for _ in range(STEPS):
        step = rng.random()
        if step < 0.4:
            sequences = jobs.next()
            stage.comes(sequences)
            waiters[asyncio.create_task(batcher.compute(sequences, rng.choice(CALLERS)))] = sequences
        elif step < 0.6 and waiters:
            gone = rng.choice(list(waiters))
            gone.cancel()
            await asyncio.wait([gone])
            stage.left(waiters.pop(gone))
        elif running := list(stage.running):
            stage.finish(rng.choice(running))
        await asyncio.to_thread(stage.settle)
    closing = asyncio.create_task(batcher.close(BOUND_S if seed % 2 else 0))
    stage.open()
    await closing
    for task, sequences in waiters.items():
        if seed % 2 or (task.done() and not task.exception()):
            assert [vector[0] for vector in await task] == [ids[0] for ids in sequences]
        else:
            assert isinstance(task.exception(), Draining)


@pytest.mark.parametrize("drain_s", [0, BOUND_S])
@pytest.mark.parametrize("seed", range(6))
async def test_every_waiter_is_answered_whatever_fails_leaves_and_closes(seed: int, drain_s: float) -> None:
    rng, durations = random.Random(seed), random.Random(seed)
    jobs = Jobs(rng)
    failed: set[int] = set()
    batches = 0

    def compute(batch: Sequence[Sequence[int]], stream: int) -> None:
        nonlocal batches
        batches += 1
        time.sleep(durations.random() * 0.002)
        if durations.random() < 0.05:
            failed.update(ids[0] for ids in batch)
            raise RuntimeError("engine broke")

    engine = Engine(compute)
    batcher = batcher_on(engine, alike=bool(seed % 2))
    has_left: set[int] = set()

    async def one() -> None:
        sequences = jobs.next()
        numbers = {ids[0] for ids in sequences}
        computing = asyncio.create_task(batcher.compute(sequences, rng.choice(CALLERS)))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.01)
            computing.cancel()
            has_left.update(numbers)
        try:
            begun = batches
            assert [vector[0] for vector in await computing] == [ids[0] for ids in sequences]
            if numbers <= jobs.queries:
                assert batches - begun <= PATIENCE
        except InferenceFailed:
            assert failed & numbers
        except Draining:
            assert is_closing
        except asyncio.CancelledError:
            assert has_left & numbers

    async def client() -> None:
        while not is_closing:
            await one()

    is_closing = False
    clients = [asyncio.create_task(client()) for _ in range(40)]
    await asyncio.sleep(0.2)
    is_closing = True
    async with asyncio.timeout(BOUND_S):
        await batcher.close(drain_s)
        await asyncio.gather(*clients)
    assert engine.is_closed
