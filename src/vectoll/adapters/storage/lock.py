"""One serving process per data directory."""

import fcntl
import os
from pathlib import Path
from typing import Self

from vectoll.domain.errors import Unusable

LOCK_NAME = "server.lock"


class DataDirLock:
    """An advisory lock on ``server.lock``, held by the process that serves: holds live in its memory.

    A context manager. The kernel lets go when the process ends in any way, so a lock is never stale. Commands that
    only add credit or revoke keys do not take it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take the lock at once. Raises ConfigurationError, naming the process that has it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(f"cannot write to {self._path.parent}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _written_by(file)
            os.close(file)
            raise Unusable(
                f"another vectoll server (process {holder}) is using the data directory {self._path.parent}"
            ) from None
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(file)
            raise Unusable(f"cannot write to {self._path.parent}: {error.strerror}") from None
        self._file = file
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def server_of(data_dir: Path) -> str | None:
    """The id of another process that serves from a data directory; None where there is none."""
    try:
        file = os.open(data_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _written_by(file)
        return None if holder == str(os.getpid()) else holder
    finally:
        os.close(file)
    return None


def _written_by(file: int) -> str:
    return os.read(file, 20).decode(errors="replace").strip() or "unknown"
