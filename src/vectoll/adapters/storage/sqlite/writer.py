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
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.domain.errors import Draining, OutcomeUnknown, Unavailable, VectollError
from vectoll.domain.ledger import Hold
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
    charges: Hold | None
    result: Any = None
    error: BaseException | None = None


class GroupWriter:
    """Group commit for one event loop.

    The loop gathers operations while the thread commits the group before, and hands them over in one piece when
    that group's outcome has been delivered. So at most one group is uncommitted, and between a delivery and the next
    handover the loop knows exactly what the file holds: the writer is then quiet.
    """

    def __init__(self, path: Path, clock: Clock, undecided: UndecidedCharges) -> None:
        self._path = path
        self._clock = clock
        self._undecided = undecided
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._waiting: list[_Job] = []
        self._is_committing = False
        self.changes = 0
        """Groups whose outcome is known in the loop, and that may have changed what accounts have."""
        self._when_quiet: list[Callable[[], None]] = []
        self._closed: asyncio.Future[None] | None = None
        self._work: Work | None = None  # the thread's own, as is what follows
        self._is_undecided = False
        """Whether the log may hold a failed transaction, which the next process would take for committed."""
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
        charges: Hold | None = None,
    ) -> "asyncio.Future[T]":
        """Run an operation in the next group. Its outcome is durable when the future has a result.

        ``run`` is called in the writer's thread. A VectollError from it reaches the future and undoes nothing, so it
        must be raised before the first change. ``settle`` is called once in the loop, whatever the outcome and even
        when the future was cancelled, in the same step in which the outcome becomes known. ``moves_funds`` is False
        where no account's funds change, or ``settle`` itself accounts for the change. ``charges`` is the hold being
        charged, to be recorded should nobody know whether it was.

        The future raises Unavailable when the commit failed and nothing of it was applied, OutcomeUnknown when it may
        turn out to be applied once the process has ended. Raises Draining after ``close``, and Unavailable when too
        much waits.
        """
        if self._closed is not None:
            raise Draining
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("The ledger is busy. Please try again.", retry_after_s=1)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Job(run, future, settle, moves_funds, charges))
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
        if isinstance(error, OutcomeUnknown):
            # until the process ends
            _log.error("ledger_commit_unknown", extra={"reason": str(error.__cause__)})
            _answer(group, error)
            # a charge with an Idempotency-Key is left as it is: its client can ask for the answer again
            holds = [job.charges for job in group if job.charges is not None]
            self._undecided.add([hold for hold in holds if hold.fingerprint is None])
        elif _is_of_the_file(error):
            _log.error("ledger_commit_failed", extra={"reason": str(error)})
            _answer(group, _unavailable(error))
        elif len(group) == 1:
            _answer(group, error)
        else:
            for job in group:
                self._commit([job])

    def _attempt(self, group: list[_Job]) -> Exception | None:
        """What kept the whole transaction from being committed, or None."""
        try:
            with write_lock(self._path, connection.BUSY_TIMEOUT_S):
                self._transact(self._ready(), group)
        except Exception as error:  # noqa: BLE001  every waiter must get an answer
            if not self._is_undecided:
                self._disconnect()  # rolls back; a fresh connection knows nothing of the failure
            return error
        return None

    def _ready(self) -> Work:
        """A connection, with nothing in the log but what was committed."""
        if self._work is not None and self._is_undecided:
            _overwrite(self._work.connection)
            self._is_undecided = False
            self._disconnect()
        if self._work is None:
            self._work = Work(connection.connect(self._path))
        return self._work

    def _transact(self, work: Work, group: list[_Job]) -> None:
        work.begin(self._clock.now())
        for job in group:
            job.result = job.error = None
            try:
                job.result = job.run(work)
            except VectollError as refusal:
                job.error = refusal
        work.flush()
        try:
            work.connection.execute("COMMIT")
        except sqlite3.Error as error:
            if _may_be_in_the_log(error):
                self._undo(work, error)
            raise

    def _undo(self, work: Work, error: sqlite3.Error) -> None:
        """Make sure that what was not committed never will be. Raises OutcomeUnknown.

        On the same connection: if it were the last on the file, the next one would read the log anew and take what is
        in it for committed. So it is kept until this succeeds, if need be with the next group.
        """
        self._is_undecided = True
        try:
            _overwrite(work.connection)
        except sqlite3.Error:
            raise OutcomeUnknown(
                "The ledger cannot be written right now, and whether you were charged is not known yet. "
                "A charge without an answer is given back.",
                retry_after_s=1,
            ) from error
        self._is_undecided = False

    def _disconnect(self) -> None:
        if self._work is not None:
            self._work.connection.close()
            self._work = None


def _answer(group: list[_Job], error: Exception) -> None:
    for job in group:
        job.result, job.error = None, error


def _may_be_in_the_log(error: sqlite3.Error) -> bool:
    """Whether a COMMIT that failed may have left the whole transaction in the log: not where writing it failed."""
    code = getattr(error, "sqlite_errorcode", None)
    is_written = code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return is_written and not isinstance(error, sqlite3.IntegrityError)


def _overwrite(connection: sqlite3.Connection) -> None:
    """Overwrite the transaction that was not committed with one that changes nothing. Raises sqlite3.Error.

    SQLite writes a transaction to the log, then waits for the disk. When that wait fails it forgets what it has
    written, but the log still ends with it, valid. Checksums in the log are chained, so writing one other page where
    it began invalidates the rest: this page is the file's first, and the last of its own transaction.
    """
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version}")


def _is_of_the_file(error: Exception) -> bool:
    """Whether the file or its disk is at fault (full, locked, unreadable), not one operation."""
    return isinstance(error, sqlite3.OperationalError | OSError) or type(error) is sqlite3.DatabaseError


def _unavailable(cause: Exception) -> Unavailable:
    error = Unavailable("The ledger cannot be written right now. Nothing was charged.", retry_after_s=1)
    error.__cause__ = cause
    return error
