"""Copies of a ledger that can be trusted: taken while it is written to, verified before they count."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vectoll.adapters.storage.durable import sync
from vectoll.adapters.storage.sqlite.connection import (
    BUSY_TIMEOUT_S,
    DATABASE_NAME,
    RESTORED_NAME,
    connect,
    connect_to_read,
    convert,
    newest_schema,
    reason_of,
)
from vectoll.adapters.storage.sqlite.verification import MAX_FAULTS, verify
from vectoll.adapters.storage.sqlite.write_lock import write_lock
from vectoll.domain.errors import ConfigurationError, Unusable
from vectoll.domain.ledger import Verification
from vectoll.ports.progress import Progress

PAGES_PER_STEP = 2048
"""8 MiB between two reports of progress."""


def back_up(data_dir: Path, file: Path, *, replace: bool, progress: Progress) -> Verification:
    """Copy the ledger as it is at this moment into one file, durably, and verify the copy.

    Writers go on meanwhile: the copy is one snapshot. ``file`` is only there, under its name, when it is whole and
    verified. ``progress`` counts pages. Raises ConfigurationError.
    """
    if _is_same(file, data_dir / DATABASE_NAME):
        raise ConfigurationError(f"{file} is the ledger itself")
    if file.exists() and not replace:
        raise Unusable(f"{file} exists already; --force replaces it")
    ledger = data_dir / DATABASE_NAME
    with _snapshot(ledger) as source, _explaining(f"cannot back up to {file}"), _new_file(file) as copy:
        _copy(source, copy, progress)
        return check_backup(copy, ledger)


@contextmanager
def _snapshot(ledger: Path) -> Iterator[sqlite3.Connection]:
    """One moment of a ledger that is in use. Raises Unusable, naming it, when it cannot be read."""
    with _explaining(f"cannot read {ledger}"):
        source = connect_to_read(ledger)
    with closing(source):
        with _explaining(f"cannot read {ledger}"):
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # it begins with the first read
        yield source


def restore(file: Path, data_dir: Path, *, replace: bool, progress: Progress) -> Verification:
    """Make ``file`` the ledger of ``data_dir``, brought up to this program's schema and verified first.

    The caller holds the data directory's lock. A ledger that is there is kept beside it as ``….replaced``, the one
    before that is deleted. Raises ConfigurationError, before anything is changed.
    """
    path = data_dir / DATABASE_NAME
    if _is_same(file, path):
        raise ConfigurationError(f"{file} is the ledger itself")
    if path.exists() and not replace:
        raise Unusable(f"there is a ledger in {data_dir} already; --force replaces it")
    check_backup(file)
    restored = data_dir / RESTORED_NAME
    with _explaining(f"cannot restore to {data_dir}"):
        with _new_file(restored) as copy:
            with closing(_open(file)) as source:
                _copy(source, copy, progress)
            with closing(connect(copy)) as db:
                db.execute("PRAGMA journal_mode = OFF")  # a copy that fails is deleted
                convert(db)
                found = _verified(db, file)
        with write_lock(path, BUSY_TIMEOUT_S):
            _set_aside(path)
            restored.replace(path)
            sync(data_dir)
        return found


def check_backup(file: Path, original: Path | None = None) -> Verification:
    """Whether a file is a ledger that can be served from. Raises ConfigurationError when it is not, naming the
    ``original`` that it is an exact copy of.
    """
    name = original or file
    if _log_of(file).exists():
        raise Unusable(f"{file} was in use when it was copied; copies are made by `vectoll backup`")
    with _explaining(f"cannot read {name}"), closing(_open(file)) as db:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not version or not {"accounts", "transfers"} <= tables:
            raise ConfigurationError(f"{name} is not a backup of a vectoll ledger")
        if version > newest_schema():
            raise Unusable(f"{name} was written by a newer vectoll (schema {version})")
        faults = [fault for (fault,) in db.execute(f"PRAGMA integrity_check({MAX_FAULTS})") if fault != "ok"]
        faults += [
            f"a row of {table} refers to nothing" for table, *_ in db.execute("PRAGMA foreign_key_check")
        ]
        if faults:
            raise Unusable(f"{name} is damaged: {faults[0]}")
        return _verified(db, name)


def _verified(db: sqlite3.Connection, file: Path) -> Verification:
    found = verify(db)
    if not found.is_clean:
        wrong = found.disagreements[0]
        raise Unusable(
            f"the ledger in {file} does not add up: {wrong.subject}: expected {wrong.expected}, found {wrong.found}"
        )
    return found


def _copy(source: sqlite3.Connection, file: Path, progress: Progress) -> None:
    """Every page, into an empty file that needs no others beside it."""
    with closing(sqlite3.connect(file, isolation_level=None)) as target:
        source.backup(
            target,
            pages=PAGES_PER_STEP,
            progress=lambda _, left, total: progress(total - left, total),
            sleep=0,
        )
        target.execute("PRAGMA journal_mode = DELETE")


def _open(file: Path) -> sqlite3.Connection:
    """A backup, to be read only, with nothing written beside it."""
    file.stat()  # of one that is not there SQLite says no more than that it is unable to open it
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """Yields an empty file that gets its name, durably, when all went well, and is deleted when not.

    Nobody else writes to it, also where another copy to ``file`` is being made.
    """
    descriptor, name = tempfile.mkstemp(".partial", f"{file.name}.", file.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        sync(partial)
        partial.replace(file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """Keep the ledger that is replaced, as it is: it may be damaged. Its log must not meet the new one."""
    kept = path.with_name(f"{path.name}.replaced")
    if path.exists():
        _log_of(kept).unlink(missing_ok=True)
        path.replace(kept)
    if _log_of(path).exists():
        _log_of(path).replace(_log_of(kept))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def _is_same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unusable(f"{what}: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise Unusable(f"{what}: {reason_of(error)}") from None
