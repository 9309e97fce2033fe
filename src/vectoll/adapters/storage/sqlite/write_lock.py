"""One writer at a time among all vectoll processes on a data directory."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITE_LOCK_NAME = "write.lock"
_POLL_S = 0.001


@contextmanager
def write_lock(database: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock for a transaction, its commit, and the checkpoint that the commit may run.

    SQLite up to 3.51.2 can damage a database when one connection commits while another starts a checkpoint
    (https://sqlite.org/wal.html#walresetbug). Checkpoints run inside commits, and commits hold this lock.
    Raises TimeoutError when another process has it for longer than ``timeout_s``, OSError when it cannot be made.
    """
    file = os.open(database.with_name(WRITE_LOCK_NAME), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _lock(file, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(file)


def _lock(file: int, deadline_s: float) -> None:
    """``flock`` has no timeout of its own."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise TimeoutError("another process is writing to the ledger and does not finish") from None
            time.sleep(_POLL_S)
        else:
            return
