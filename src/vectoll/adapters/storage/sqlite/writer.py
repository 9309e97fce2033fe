"""The one thread that writes: it commits what has gathered since its last commit, durably, in one transaction."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from vectoll.adapters.storage.sqlite import connection
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.write_lock import write_lock
from vectoll.domain.errors import Draining, Unavailable, VectollError
from vectoll.ports.clock import Clock

MAX_WAITING = 65_536
MAX_GROUP = 1024
"""Operations in one transaction, so that it holds the database's lock for milliseconds."""

T = TypeVar("T")

_log = logging.getLogger("vectoll.storage")


@dataclass(slots=True)
class _Job:
    """One operation. Its outcome is written by the thread and read by the loop after the handover."""

    run: Callable[[Work], Any]
    future: asyncio.Future[Any]
    settle: Callable[[], None] | None
    moves_funds: bool
    result: Any = None
    error: BaseException | None = None


class GroupWriter:
    """Group commit for one event loop.

    The loop gathers operations while the thread commits the group before, and hands them over in one piece when
    that group's outcome has been delivered. So at most one group is uncommitted, and between a delivery and the next
    handover the loop knows exactly what the file holds: the writer is then quiet.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._waiting: list[_Job] = []
        self._is_committing = False
        self.changes = 0
        """Groups whose outcome is known in the loop, and that may have changed what accounts have."""
        self._when_quiet: list[Callable[[], None]] = []
        self._closed: asyncio.Future[None] | None = None
        self._work: Work | None = None  # the thread's own
        self._thread = Thread(target=self._serve, name="vectoll-ledger", daemon=True)
        self._thread.start()

    @property
    def is_quiet(self) -> bool:
        """Whether everything that is committed has been delivered."""
        return not self._is_committing

    def submit(
        self,
        run: Callable[[Work], T],
        settle: Callable[[], None] | None = None,
        *,
        moves_funds: bool = True,
    ) -> "asyncio.Future[T]":
        """Run an operation in the next group. Its outcome is durable when the future has a result.

        ``run`` is called in the writer's thread; what it raises reaches the future and undoes nothing but itself:
        a VectollError must be raised before the first change. ``settle`` is called once in the loop, whatever the
        outcome and even when the future was cancelled, in the same step in which the outcome becomes known.
        ``moves_funds`` is False for what changes no account's funds, or says itself in ``settle`` by how much.
        The future raises Unavailable when the commit failed: then nothing of it was applied. Raises Draining
        after ``close``, and Unavailable when too much waits.
        """
        if self._closed is not None:
            raise Draining
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("The ledger is busy. Please try again.", retry_after_s=1)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Job(run, future, settle, moves_funds))
        if len(self._waiting) == 1 and not self._is_committing:
            self._loop.call_soon(self._hand_over)
        return future

    def when_quiet(self, look: Callable[[], T]) -> "asyncio.Future[T]":
        """Call ``look`` in the loop at the next moment when the writer is quiet; not at all if cancelled by then."""
        future: asyncio.Future[T] = self._loop.create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(look())
            except Exception as error:  # noqa: BLE001  the waiter gets it
                future.set_exception(error)

        if self.is_quiet:
            call()
        else:
            self._when_quiet.append(call)
        return future

    async def close(self) -> None:
        """Commit and deliver all that was submitted, then end the thread. Nothing may be submitted afterwards."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            if not self._waiting and not self._is_committing:
                self._closed.set_result(None)
        await asyncio.shield(self._closed)
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # In the loop

    def _hand_over(self) -> None:
        group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
        self._is_committing = True
        self._inbox.put(group)

    def _deliver(self, group: list[_Job]) -> None:
        self._is_committing = False
        self.changes += any(job.moves_funds for job in group)
        for job in group:
            if job.settle is not None:
                job.settle()
        looks, self._when_quiet = self._when_quiet, []
        for look in looks:
            look()
        for job in group:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
        if self._waiting:
            self._hand_over()
        elif self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    # In the thread

    def _serve(self) -> None:
        while (group := self._inbox.get()) is not None:
            self._commit(group)
            try:
                self._loop.call_soon_threadsafe(self._deliver, group)
            except RuntimeError:
                break  # the loop was closed without us: nobody is left to tell
        self._disconnect()

    def _commit(self, group: list[_Job]) -> None:
        """Give every job its outcome. If one breaks the transaction, each gets a transaction of its own."""
        error = self._attempt(group)
        if error is None:
            return
        if _is_of_the_file(error):
            _log.error("ledger commit failed, nothing was applied: %s", error)
            for job in group:
                job.result, job.error = None, _unavailable(error)
        elif len(group) == 1:
            group[0].result, group[0].error = None, error
        else:
            for job in group:
                self._commit([job])

    def _attempt(self, group: list[_Job]) -> Exception | None:
        """What kept the whole transaction from being committed, or None."""
        try:
            if self._work is None:
                self._work = Work(connection.connect(self._path))
            with write_lock(self._path, connection.BUSY_TIMEOUT_S):
                self._transact(self._work, group)
        except Exception as error:  # noqa: BLE001  every waiter must get an answer
            self._disconnect()  # rolls back; a fresh connection knows nothing of the failure
            return error
        return None

    def _transact(self, work: Work, group: list[_Job]) -> None:
        work.begin(self._clock.now())
        for job in group:
            job.result = job.error = None
            try:
                job.result = job.run(work)
            except VectollError as refusal:
                job.error = refusal
        work.flush()
        work.connection.execute("COMMIT")

    def _disconnect(self) -> None:
        if self._work is not None:
            self._work.connection.close()
            self._work = None


def _is_of_the_file(error: Exception) -> bool:
    """Whether the file or its disk is at fault (full, locked, unreadable), not one operation."""
    return isinstance(error, sqlite3.OperationalError | OSError) or type(error) is sqlite3.DatabaseError


def _unavailable(cause: Exception) -> Unavailable:
    error = Unavailable("The ledger cannot be written right now. Nothing was charged.", retry_after_s=1)
    error.__cause__ = cause
    return error
