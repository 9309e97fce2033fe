"""``vectoll db copy``: everything that one SQLite file holds, into an empty PostgreSQL database, verified."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from vectoll.adapters.storage.postgres import verification
from vectoll.adapters.storage.postgres.database import LONG_S, TAKE_TIME, Connection, Database, sql
from vectoll.adapters.storage.postgres.migrations import check
from vectoll.adapters.storage.sqlite import UNDECIDED_NAME
from vectoll.adapters.storage.sqlite.connection import (
    BUSY_TIMEOUT_S,
    DATABASE_NAME,
    connect_to_read,
    prepare,
)
from vectoll.adapters.storage.sqlite.verification import verify as verify_file
from vectoll.adapters.storage.sqlite.write_lock import write_lock
from vectoll.domain.errors import ConfigurationError, Unusable
from vectoll.domain.ledger import Verification
from vectoll.ports.progress import Progress

CHUNK = 5_000

_TABLES = (
    ("accounts", "id balance"),
    (
        "transfers",
        "seq id debit credit amount code created_at request_id key model tokens duration_ms fingerprint note",
    ),
    ("key_spend", "key period start spent"),
    (
        "api_keys",
        "seq id account kind name digest prefix last6 created_at expires_at revoked_at limit_amount limit_period "
        "is_pro",
    ),
    (
        "payments",
        "seq id network payer base_units payload state created_at updated_at since_block tx raw_tx log_index "
        "is_final balance_after reason version",
    ),
    ("sign_in_nonces", "wallet nonce good_until"),
    ("daily_grants", "account per_day"),
    ("allowances", "account day staked granted spent"),
    ("stake_snapshots", "day block taken_at"),
)
"""In an order in which what is referred to comes first."""
NUL_SIGN = "␀"
"""Stands in a key's name for a NUL, which SQLite can hold and PostgreSQL cannot; no new name has one."""
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "is_pro": bool,
    "is_final": bool,
    "name": lambda name: name.replace("\0", NUL_SIGN),
}
_NUMBERED = ("api_keys", "payments")


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, and that it is right."""

    rows: int
    verification: Verification


async def copy_store(data_dir: Path, database: Database, progress: Progress) -> Copied:
    """Copy all rows in one transaction, which is committed only when the copy was verified. ``progress`` counts rows.

    Nobody else writes to the file meanwhile; the caller makes sure that no server serves from it. Raises
    ConfigurationError when there is no ledger or there are charges to be looked up in it, when the database is not
    empty or not migrated, or when either does not verify.
    """
    if not (data_dir / DATABASE_NAME).exists():
        raise ConfigurationError(f"there is no ledger in {data_dir}: check --data-dir")
    if any((data_dir / UNDECIDED_NAME).glob("*.json")):
        raise ConfigurationError(
            f"{data_dir / UNDECIDED_NAME} lists charges that may have to be given back: "
            "run `vectoll ledger verify` on the data directory, which settles them, then copy"
        )
    await check(database)
    path = prepare(data_dir)
    try:
        with write_lock(path, BUSY_TIMEOUT_S), closing(connect_to_read(path)) as file:
            file.execute("BEGIN")
            _require_clean("the ledger in the data directory", verify_file(file))
            return await database.run(lambda db: _copy(file, db, progress), is_repeatable=False)
    except (TimeoutError, sqlite3.OperationalError) as error:
        raise Unusable(f"cannot read {path}: {error}") from None


async def _copy(file: sqlite3.Connection, db: Connection, progress: Progress) -> Copied:
    total = sum(_count(file, table) for table, _ in _TABLES)
    async with db.transaction():
        await db.execute(TAKE_TIME)
        await db.execute(
            "LOCK TABLE vectoll.accounts, vectoll.transfers, vectoll.ledger_head IN EXCLUSIVE MODE"
        )
        await _require_empty(db)
        done = 0
        for table, columns in _TABLES:
            for rows in _chunks(file, table, columns.split()):
                try:
                    await db.copy_records_to_table(
                        table, schema_name="vectoll", columns=columns.split(), records=rows, timeout=LONG_S
                    )
                except asyncpg.CharacterNotInRepertoireError:
                    raise ConfigurationError(_unholdable(table, columns.split(), rows)) from None
                done += len(rows)
                progress(done, total)
        await _number_on(db)
        verified = await _verify_copy(file, db)
    return Copied(done, verified)


async def _require_empty(db: Connection) -> None:
    for table, _ in _TABLES:
        if await db.fetchval(f"SELECT EXISTS (SELECT 1 FROM vectoll.{table})"):  # noqa: S608 - a constant
            raise Unusable(f"the database is not empty: there are {table} in it")


async def _number_on(db: Connection) -> None:
    """New rows are numbered after those that were copied."""
    await db.execute(
        "UPDATE vectoll.ledger_head SET seq = (SELECT coalesce(max(seq), 0) FROM vectoll.transfers)"
    )
    for table in _NUMBERED:
        await db.execute(
            f"SELECT setval(pg_get_serial_sequence('vectoll.{table}', 'seq'), coalesce(max(seq), 0) + 1, false)"  # noqa: S608
            f" FROM vectoll.{table}"
        )


async def _verify_copy(file: sqlite3.Connection, db: Connection) -> Verification:
    verified = await verification.verify(db)
    _require_clean("the copy", verified)
    if dict(await db.fetch(sql("all_balances"))) != dict(file.execute("SELECT id, balance FROM accounts")):
        raise Unusable("the copy's balances differ: nothing was copied")
    for table, _ in _TABLES:
        counted = await db.fetchval(f"SELECT count(*) FROM vectoll.{table}", timeout=LONG_S)  # noqa: S608
        if counted != _count(file, table):
            raise Unusable(f"the copy's {table} differ: nothing was copied")
    return verified


def _require_clean(what: str, found: Verification) -> None:
    if not found.is_clean:
        first = found.disagreements[0]
        raise Unusable(
            f"{what} does not verify ({first.subject}: expected {first.expected}, found {first.found}): "
            "nothing was copied"
        )


def _count(file: sqlite3.Connection, table: str) -> int:
    count: int = file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - a constant
    return count


def _unholdable(table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Which of the rows cannot be copied."""
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            if isinstance(value, str) and "\0" in value:
                return (
                    f"{table}: the row with {columns[0]} {row[0]!a} has a NUL character in its {column}, which "
                    "PostgreSQL cannot hold: nothing was copied"
                )
    return f"{table} have text that PostgreSQL cannot hold: nothing was copied"


def _chunks(file: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
    cursor = file.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1")  # noqa: S608 - constants
    conversions = [
        (columns.index(name), convert) for name, convert in _CONVERSIONS.items() if name in columns
    ]
    while rows := cursor.fetchmany(CHUNK):
        yield [_converted(row, conversions) for row in rows] if conversions else rows


def _converted(
    row: Sequence[Any], conversions: Sequence[tuple[int, Callable[[Any], Any]]]
) -> tuple[Any, ...]:
    values = list(row)
    for place, convert in conversions:
        values[place] = convert(values[place])
    return tuple(values)
