"""One worker thread per engine stream, fed from one fair queue. Owns every future that waits.

The workers take their next batch themselves, under a lock, so a busy event loop never leaves an engine idle; the
loop is woken once per batch, to answer whoever is complete. Idle workers are woken once per turn of the loop: what
came in together is computed together, and no worker contends with the loop for the interpreter at every request.

One worker more, where the engine allows it, computes nothing but small requests, and only while every stream computes a
large one: who asks one thing does not wait until a part of somebody's bulk is done. The cores are the same; the system
shares them out.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from vectoll.core.batching.flow import Item, Job
from vectoll.core.batching.queue import BatchShape, FairQueue
from vectoll.core.batching.vectors import all_finite
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import AtCapacity, Draining, InferenceFailed, VectollError
from vectoll.domain.identity import Caller
from vectoll.ports.engine import Engine
from vectoll.ports.metrics import Metrics

log = logging.getLogger(__name__)

CALM_S = 0.05
"""For so long after two jobs were there at once, no batch is taken to be alone."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """Who is told when a job is done."""

    future: asyncio.Future[list[Vector]]
    vectors: list[Vector | None]
    taken_at: float = math.inf
    """When its first sequence went to the engine, by ``time.perf_counter``."""

    def answer(self, error: VectollError | None) -> None:
        """On the event loop. A waiter that left is not answered."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(cast("list[Vector]", self.vectors))


class Batcher:
    """Computes sequences on one engine, fairly, in batches."""

    def __init__(
        self,
        engine: Engine,
        shape: BatchShape,
        *,
        model: str,
        max_queue_tokens: int,
        max_wait_s: float,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._queue = FairQueue(shape)
        self._model = model
        self._max_queue_tokens = max_queue_tokens
        self._max_wait_s = max_wait_s
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._query_comes = threading.Condition(self._lock)
        self._idle = 0
        self._large: set[int] = set()
        """Streams that compute a part of a request that is no query."""
        self._unannounced = 0
        """Sequences pushed in this turn of the loop."""
        self._waiters: dict[Job, _Waiter] = {}
        self._met_at = -math.inf
        """When a job last came while another was there. Then every core has something to do: the event loop, and
        whoever sends. A batch that is spread over all of them would wait for each in turn."""
        self._tokens_per_s = 0.0
        self._is_closing = False
        takers = [self._next_batch] * engine.streams + [self._next_queries] * (shape.query_tokens > 0)
        self._threads = [
            threading.Thread(target=self._work, args=(stream, take), name=f"{model}-{stream}", daemon=True)
            for stream, take in enumerate(takers)
        ]
        for thread in self._threads:
            thread.start()

    async def compute(self, sequences: Sequence[Sequence[int]], caller: Caller) -> list[Vector]:
        """One vector per sequence, in order; of one at least, with one token at least.

        Raises AtCapacity at once, InferenceFailed, or Draining. Cancelling forgets what still waits.
        """
        job = Job(caller, sequences)
        waiter = _Waiter(self._loop.create_future(), [None] * len(sequences))
        pushed_at = time.perf_counter()
        with self._lock:
            self._require_room(job)
            if self._waiters:
                self._met_at = pushed_at
            self._waiters[job] = waiter
            self._queue.push(job)
        if not self._unannounced:
            self._loop.call_soon(self._announce)
        self._unannounced += len(sequences)
        try:
            vectors = await waiter.future
        except asyncio.CancelledError:
            with self._lock:
                self._queue.discard(job)
                self._waiters.pop(job, None)
            self._announce()  # a query may be next now
            raise
        self._metrics.stage(self._model, "queue", max(0.0, waiter.taken_at - pushed_at))
        return vectors

    def _announce(self) -> None:
        """Wake as many idle workers as there is new work for, and the one for queries where none takes them."""
        with self._lock:
            self._wake.notify(min(self._idle, self._unannounced))
            self._call_for_queries()
        self._unannounced = 0

    def _call_for_queries(self) -> None:
        """Wake the worker for queries where there is one for it. The lock is held."""
        if self._is_all_large() and self._queue.is_query_next():
            self._query_comes.notify()

    def _is_all_large(self) -> bool:
        """Whether every stream computes a large request: a query would wait for one."""
        return len(self._large) == self._engine.streams

    def _require_room(self, job: Job) -> None:
        if self._is_closing:
            raise Draining
        ahead = self._queue.tokens_ahead(job.caller, job.tokens)
        wait_s = ahead / self._tokens_per_s if self._tokens_per_s else 0.0
        has_room = self._queue.has_room(job.caller, job.tokens, self._max_queue_tokens)
        if wait_s > self._max_wait_s or not has_room:
            raise AtCapacity(math.ceil(max(1.0, wait_s - self._max_wait_s)))

    def _work(self, stream: int, take: Callable[[int], list[Item]]) -> None:
        while batch := take(stream):
            started = time.perf_counter()
            vectors: Sequence[Vector] = []
            error: InferenceFailed | None = None
            try:
                vectors = self._compute(batch, stream, is_alone=started - self._met_at > CALM_S)
            except InferenceFailed as failure:
                error = failure
            except Exception as failure:  # whatever an engine raises, its waiters are answered
                log.exception("engine_failed", extra={"model": self._model}, exc_info=failure)
                error = InferenceFailed()
            self._finish(batch, vectors, error, started)
            self._count(batch, is_computed=error is None)
            del batch, vectors, error  # or the last request would stay in memory until the next comes

    def _compute(self, batch: list[Item], stream: int, *, is_alone: bool) -> Sequence[Vector]:
        """A finite vector for each. Raises InferenceFailed, ValueError, and whatever an engine raises."""
        callers = [item.job.caller for item in batch]
        ids = [item.ids for item in batch]
        vectors = self._engine.embed(ids, stream, is_alone=is_alone, callers=callers)
        if len(vectors) != len(batch):
            raise ValueError(f"{len(vectors)} vectors for {len(batch)} sequences")
        if not all_finite(vectors):
            raise InferenceFailed("The model produced a non-finite vector.")
        return vectors

    def _next_batch(self, stream: int) -> list[Item]:
        """Block until there is work. Empty when the batcher is closed and nothing is left."""
        with self._lock:
            self._idle += 1
            self._large.discard(stream)
            while not (batch := self._queue.next_batch(self._idle, self._known_tokens)):
                if self._is_closing:
                    return []
                self._wake.wait()
            self._idle -= 1
            if any(item.job.tokens > self._queue.shape.query_tokens for item in batch):
                self._large.add(stream)
                self._call_for_queries()
            return batch

    def _next_queries(self, _stream: int) -> list[Item]:
        """Block until small requests are next and every stream computes a large one. Empty when the batcher closes."""
        with self._lock:
            while not self._is_closing:
                if self._is_all_large() and (batch := self._queue.next_queries(self._known_tokens)):
                    return batch
                self._query_comes.wait()
            return []

    def _known_tokens(self, item: Item) -> int:
        """Whatever an engine raises, what was taken from the queue is not lost: all of it is to be computed."""
        try:
            return self._engine.known_tokens(item.ids, item.job.caller)
        except Exception as failure:
            log.exception("known_tokens_failed", extra={"model": self._model}, exc_info=failure)
            return 0

    def _finish(
        self, batch: list[Item], vectors: Sequence[Vector], error: InferenceFailed | None, started: float
    ) -> None:
        """Hand out what a batch gave; a job is answered when its last sequence is, or at its first failure."""
        seconds = time.perf_counter() - started
        tokens = sum(item.length for item in batch)
        done: list[tuple[_Waiter, VectollError | None]] = []
        with self._lock:
            if error is None:
                self._measure(tokens, seconds)
            for position, item in enumerate(batch):
                waiter = self._waiters.get(item.job)
                if waiter is None:
                    continue
                waiter.taken_at = min(waiter.taken_at, started)
                if error is None:
                    waiter.vectors[item.index] = vectors[position]
                    item.job.remaining -= 1
                if error is not None or item.job.remaining == 0:
                    self._queue.discard(item.job)
                    del self._waiters[item.job]
                    done.append((waiter, error and InferenceFailed(*error.args)))  # each its own traceback
        if done:
            self._loop.call_soon_threadsafe(_answer_all, done)

    def _count(self, batch: list[Item], *, is_computed: bool) -> None:
        """Tell the metrics of a batch. Whatever they or the engine raise, the worker goes on."""
        try:
            self._metrics.queued(self._model, self._queue.tokens)
            if is_computed:
                to_compute = [item.to_compute for item in batch]
                computed, budget = self._engine.computed_tokens(to_compute), self._queue.shape.budget_tokens
                self._metrics.batch(self._model, len(batch), sum(to_compute), computed, budget)
        except Exception as failure:
            log.exception("batch_not_counted", extra={"model": self._model}, exc_info=failure)

    def _measure(self, tokens: int, seconds: float) -> None:
        """Follow the engine's speed, all streams together, as a moving average over about ten batches.

        What waits is computed in batches that are full. A lone query's, which is little but the start of a batch, says
        nothing about that: a GPU takes as long for a thousand times as much.
        """
        if 2 * tokens <= self._queue.shape.budget_tokens:
            return
        rate = tokens / max(seconds, 1e-9) * self._engine.streams
        self._tokens_per_s += (rate - self._tokens_per_s) * (0.1 if self._tokens_per_s else 1.0)

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new work, let what waits finish for at most ``drain_s``, then fail the rest with Draining."""
        with self._lock:
            self._is_closing = True
            self._wake.notify_all()
            self._query_comes.notify_all()
            pending = [waiter.future for waiter in self._waiters.values()]
        if pending and drain_s > 0:
            await asyncio.wait(pending, timeout=drain_s)
        with self._lock:
            left = list(self._waiters.items())
            self._waiters.clear()
            for job, _ in left:
                self._queue.discard(job)
        _answer_all([(waiter, Draining()) for _, waiter in left])
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._engine.close()


def _answer_all(done: Sequence[tuple[_Waiter, VectollError | None]]) -> None:
    for waiter, error in done:
        waiter.answer(error)
