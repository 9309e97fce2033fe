"""Opening the database file: its settings, its schema, and its SQL by name."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib import resources
from pathlib import Path

from vectoll.adapters.storage.blocks import read_blocks
from vectoll.adapters.storage.lock import server_of
from vectoll.adapters.storage.sqlite.write_lock import write_lock
from vectoll.domain.errors import Unusable

DATABASE_NAME = "vectoll.sqlite3"
RESTORED_NAME = f"{DATABASE_NAME}.restored"
"""A backup on its way to the place of the ledger."""
BUSY_TIMEOUT_S = 10.0
"""How long to wait for another process's transaction, each of which takes milliseconds."""

LARGE = 100_000
"""With this many transfers, rewriting them takes more than a second."""
SECONDS_PER_MILLION = 15
REWRITTEN = 6
"""The newest schema that rewrites them."""

_log = logging.getLogger("vectoll.storage")
_OLDEST_SQLITE = (3, 37, 0)
_SETTINGS = (
    "PRAGMA synchronous = FULL",  # a commit that returned survives a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cache_size = -8192",  # 8 MiB at most: ids sort by time, so a charge touches few pages
    "PRAGMA wal_autocheckpoint = 8192",  # 32 MiB: a page that many accounts' charges change is copied back once
    "PRAGMA journal_size_limit = 67108864",  # what a long read made the log grow by is given back
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode to a database that ``prepare`` has seen. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def prepare(data_dir: Path) -> Path:
    """Make the directory, the file and its schema as needed; returns the file's path.

    What is new is readable by its owner only. Raises ConfigurationError when that is not possible, when a newer
    program has written the file, or when a restore was cut off between the old ledger and the new.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise Unusable(f"SQLite 3.37 or newer is needed, this Python has {sqlite3.sqlite_version}")
    path = data_dir / DATABASE_NAME
    if (data_dir / RESTORED_NAME).exists() and not path.exists():
        raise Unusable(f"`vectoll restore` was cut off and there is no ledger in {data_dir}: run it again")
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with write_lock(path, BUSY_TIMEOUT_S), closing(connect(path)) as connection:
            _migrate(connection, data_dir)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unusable(f"cannot write to the data directory {data_dir}: {reason}") from None
    except sqlite3.Error as error:
        raise Unusable(f"cannot open {path}: {reason_of(error)}") from None
    return path


def reason_of(error: sqlite3.Error) -> str:
    """SQLite's message. A full disk is added where SQLite calls it an I/O error: no room for the log's index."""
    is_full = getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE"
    return f"{error}; there is no room: is the disk full?" if is_full else str(error)


def _migrate(connection: sqlite3.Connection, data_dir: Path) -> None:
    """Bring the schema to this program's version. The caller holds the write lock."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    version, newest = _schema_version(connection), newest_schema()
    if version > newest:
        raise Unusable(
            f"the data directory was written by a newer vectoll (schema {version}, this one knows {newest})"
        )
    if 0 < version < newest:
        _require_no_server(data_dir, version, newest)
    convert(connection)


def convert(connection: sqlite3.Connection) -> None:
    """Bring a schema that is not newer to this program's version, in one transaction. Raises sqlite3.Error."""
    migrations, version = _migrations(), _schema_version(connection)
    newest = max(migrations)
    if version == newest:
        return
    if 0 < version < REWRITTEN:
        _tell_if_large(connection, version, newest)
    connection.execute("BEGIN IMMEDIATE")
    for number in range(version + 1, newest + 1):
        for statement in _statements(migrations[number]):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {newest}")
    connection.execute("COMMIT")


def _require_no_server(data_dir: Path, version: int, newest: int) -> None:
    if server := server_of(data_dir):
        raise Unusable(
            f"a server of an older vectoll (process {server}) is using the ledger in {data_dir}, which has to be "
            f"converted from schema {version} to {newest}: restart the server first"
        )


def _tell_if_large(connection: sqlite3.Connection, version: int, newest: int) -> None:
    transfers: int = connection.execute("SELECT coalesce(max(seq), 0) FROM transfers").fetchone()[0]
    if transfers >= LARGE:
        expected_s = transfers * SECONDS_PER_MILLION // 10**6
        details = {"schema": version, "to": newest, "transfers": transfers, "expected_s": expected_s}
        _log.warning("ledger_conversion", extra=details)


def newest_schema() -> int:
    """The schema that this program writes, and the newest that it reads."""
    return max(_migrations())


def _schema_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrations() -> dict[int, str]:
    """The text of each ``NNNN_name.sql`` by its number."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    return {int(file.name[:4]): file.read_text() for file in files if file.name.endswith(".sql")}


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError("a migration ends in the middle of a statement")


@cache
def sql(name: str) -> str:
    """The statement under ``-- name: name`` in one of the files in ``sql/``."""
    return read_blocks(__package__)[name]
