"""Durable charges/s of the ledger beside the raw database doing the same writes, on SQLite and PostgreSQL, in one run.

    python benchmarks/ledger.py                 # a minute; --charges 2000 for a quick look

A charge is a hold and its charge through the port, as a request makes them, by so many callers at once, over 100
accounts and keys. The raw database writes the same rows (a transfer, the account's balance, three sums of the key's
spend, and the house's balance once per group) in transactions as large as the ledger's groups were: no holds, no rules,
no look at what is there. Both wait for the disk. Adapter and raw database take turns; each figure is a median over the
rounds. PostgreSQL is the tests' own server, on this machine and so on the same cores, with its defaults but for memory.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.ledger import make_credit, make_hold  # noqa: E402
from tests.postgres import PostgresServer, make_schema, run_postgres  # noqa: E402

from vectoll.adapters.storage.postgres import PoolSettings, open_postgres  # noqa: E402
from vectoll.adapters.storage.sqlite import open_sqlite  # noqa: E402
from vectoll.adapters.storage.sqlite.connection import connect, prepare, sql  # noqa: E402
from vectoll.domain.ids import AccountId, new_id  # noqa: E402
from vectoll.domain.ledger import Hold  # noqa: E402
from vectoll.ports.store import Store  # noqa: E402

ACCOUNTS = 100
PERIODS = ("EPOCH", "MONTH", "LIFETIME")
AMOUNT = 12_500
HOUSE = "$revenue:2026-11"
Rows = Sequence[tuple[Any, ...]]


def hold_of(number: int) -> Hold:
    who = number % ACCOUNTS
    return make_hold(1, AccountId(f"account_{who}"), key=f"key_{who}")


async def through_the_port(store: Store, charges: int, callers: int) -> float:
    """Charges/s. Every caller makes one charge after the other."""
    for who in range(ACCOUNTS):
        await store.ledger.post(make_credit("100", AccountId(f"account_{who}")))
    numbers = iter(range(charges))

    async def caller() -> None:
        for number in numbers:
            hold = hold_of(number)
            await store.ledger.hold(hold)
            await store.ledger.charge(hold, 1, 5)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    rate = charges / (time.perf_counter() - started)
    assert (await store.ledger.verify()).is_clean
    return rate


async def sqlite_port(directory: Path, charges: int, callers: int) -> float:
    store = await open_sqlite(directory)
    try:
        return await through_the_port(store, charges, callers)
    finally:
        await store.close()


async def postgres_port(url: str, charges: int, callers: int) -> float:
    store = await open_postgres(url, None, PoolSettings())
    try:
        return await through_the_port(store, charges, callers)
    finally:
        await store.close()


def transfer_rows(first: int, count: int) -> list[tuple[Any, ...]]:
    """What a group of charges writes into ``transfers``."""
    return [
        (
            new_id("chg"),
            f"account_{n % ACCOUNTS}",
            HOUSE,
            AMOUNT,
            "CHARGE",
            1_763_000_000_000_000,
            new_id("req"),
            f"key_{n % ACCOUNTS}",
            "minilm",
            1,
            5,
            None,
            "",
            0,
            0,
        )
        for n in range(first, first + count)
    ]


def sqlite_raw(directory: Path, charges: int, group: int) -> float:
    with closing(connect(prepare(directory))) as db:
        names = [f"account_{who}" for who in range(ACCOUNTS)]
        db.executemany(
            "INSERT INTO accounts (id, balance) VALUES (?, 1000000000000)", [(name,) for name in names]
        )
        db.execute("INSERT INTO accounts (id, balance) VALUES (?, 0)", (HOUSE,))
        started = time.perf_counter()
        for first in range(0, charges, group):
            _sqlite_group(db, transfer_rows(first, min(group, charges - first)))
        return charges / (time.perf_counter() - started)


def _sqlite_group(db: sqlite3.Connection, rows: Rows) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(sql("insert_transfer"), rows)
    db.executemany("UPDATE accounts SET balance = balance - ? WHERE id = ?", [(AMOUNT, r[1]) for r in rows])
    db.executemany(
        "INSERT INTO key_spend VALUES (?, ?, 0, ?, 0) ON CONFLICT DO UPDATE SET spent = spent + excluded.spent",
        [(r[7], period, AMOUNT) for r in rows for period in PERIODS],
    )
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (AMOUNT * len(rows), HOUSE))
    db.execute("COMMIT")


POSTGRES_GROUP = (
    "INSERT INTO vectoll.transfers SELECT * FROM unnest("
    "$1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::text[], "
    "$9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bytea[], $14::text[])",
    "UPDATE vectoll.accounts a SET balance = a.balance - n.amount "
    "FROM (SELECT id, sum(amount) AS amount FROM unnest($1::text[], $2::bigint[]) u (id, amount) GROUP BY id) n "
    "WHERE a.id = n.id",
    "INSERT INTO vectoll.key_spend AS k SELECT key, period, 0, sum(amount) "
    "FROM unnest($1::text[], $2::bigint[]) u (key, amount), unnest($3::text[]) p (period) GROUP BY key, period "
    "ON CONFLICT (key, period, start) DO UPDATE SET spent = k.spent + excluded.spent",
    "UPDATE vectoll.accounts SET balance = balance + $1 WHERE id = $2",
)


async def postgres_raw(url: str, charges: int, group: int) -> float:
    db: Any = await asyncpg.connect(url)
    try:
        await db.execute(
            f"INSERT INTO vectoll.accounts SELECT 'account_' || n, 1000000000000 FROM generate_series(0, {ACCOUNTS}) n"
        )
        await db.execute("INSERT INTO vectoll.accounts VALUES ($1, 0)", HOUSE)
        statements = [await db.prepare(text) for text in POSTGRES_GROUP]
        started = time.perf_counter()
        for first in range(0, charges, group):
            rows = transfer_rows(first, min(group, charges - first))
            columns = [list(column) for column in zip(*rows, strict=True)]
            amounts = columns[3]
            async with db.transaction():
                numbers = list(range(first + 1, first + len(rows) + 1))
                # the last two, an account's chain of transfers, are SQLite's
                await statements[0].fetch(numbers, *columns[:-2])
                await statements[1].fetch(columns[1], amounts)
                await statements[2].fetch(columns[7], amounts, list(PERIODS))
                await statements[3].fetch(AMOUNT * len(rows), HOUSE)
        return charges / (time.perf_counter() - started)
    finally:
        await db.close()


def new_database(server: PostgresServer) -> str:
    url = server.new_database()
    asyncio.run(make_schema(url))
    return url


def run(awaitable: Awaitable[float]) -> float:
    async def main() -> float:
        return await awaitable

    return asyncio.run(main())


def measure(server: PostgresServer, charges: int, callers: int, rounds: int) -> list[dict[str, Any]]:
    """One row per database, for one number of callers."""
    pairs: dict[str, tuple[Callable[[Path], float], Callable[[Path], float]]] = {
        "SQLite": (
            lambda home: run(sqlite_port(home / "port", charges, callers)),
            lambda home: sqlite_raw(home / "raw", charges, callers),
        ),
        "PostgreSQL": (
            lambda _: run(postgres_port(new_database(server), charges, callers)),
            lambda _: run(postgres_raw(new_database(server), charges, callers)),
        ),
    }
    rows = []
    for database, (port, raw) in pairs.items():
        ports, raws = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as home:
                ports.append(port(Path(home)))
                raws.append(raw(Path(home)))
        ledger, plain = statistics.median(ports), statistics.median(raws)
        row = {
            "database": database,
            "callers": callers,
            "ledger": ledger,
            "raw": plain,
            "share": ledger / plain,
        }
        rows.append(row)
        print(
            f"{database:<10} {callers:>7} {ledger:>16,.0f} {plain:>12,.0f} {ledger / plain:>7.2f}", flush=True
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--charges", type=int, default=20_000, help="per round at 256 callers; fewer at fewer"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    print(f"{'database':<10} {'callers':>7} {'ledger, charges/s':>16} {'raw':>11} {'share':>7}")
    rows = []
    with run_postgres(is_durable=True) as server:
        for callers in (1, 16, 256):
            charges = arguments.charges if callers == 256 else max(200, arguments.charges * callers // 256)
            rows += measure(server, charges, callers, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
