"""Time and memory against the number of texts, their length, connections, and rows in the ledger. Four tables.

    python benchmarks/growth.py texts           # 1 to 100,000 texts, in requests of at most 2048
    python benchmarks/growth.py length          # one text of 4 to 256 tokens, and batches of it
    python benchmarks/growth.py connections     # 1 to 2,000, each with a request in flight
    python benchmarks/growth.py ledger          # a charge beside 10^3 to 10^7 transfers and a tenth as many keys

``--at-most N`` cuts the largest. Each writes benchmarks/results/growth-NAME.json; ``render.py`` draws the plots.
"""

import argparse
import asyncio
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.http_peers import _status_kib  # noqa: E402
from benchmarks.instant import secret_of  # noqa: E402
from benchmarks.record import recording, versions  # noqa: E402
from benchmarks.server import MODEL, ROWS, _free_port, _running, load, serving, texts_of  # noqa: E402

from vectoll.adapters.storage.rows import from_key  # noqa: E402
from vectoll.adapters.storage.sqlite import open_sqlite  # noqa: E402
from vectoll.adapters.storage.sqlite.connection import connect, prepare, sql  # noqa: E402
from vectoll.adapters.storage.sqlite.work import PAGE, _Account  # noqa: E402
from vectoll.adapters.storage.times import period_starts, to_micros  # noqa: E402
from vectoll.domain.identity import NOBODY, ApiKey, Principal, digest_of  # noqa: E402
from vectoll.domain.ids import AccountId, KeyId, ModelId, RequestId, TransferId, new_id  # noqa: E402
from vectoll.domain.ledger import Hold  # noqa: E402
from vectoll.domain.money import Price, Quote  # noqa: E402
from vectoll.loading import open_model  # noqa: E402
from vectoll.ports.ledger import UsageQuery  # noqa: E402
from vectoll.ports.model import EmbeddingModel  # noqa: E402
from vectoll.settings import load_settings  # noqa: E402

Point = dict[str, float]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
LARGEST_REQUEST = 2048


def by_texts(at_most: int) -> list[Point]:
    """Seconds and memory of so many short texts over HTTP, one request after the other."""
    counts = [n for n in (1, 10, 100, 1000, 2048, 10_000, 30_000, 100_000) if n <= at_most]
    texts = texts_of(ROWS[0])
    points = []
    with tempfile.TemporaryDirectory() as folder, serving(folder) as (url, key, pid):
        _embed(url, key, texts)
        for count in counts:
            sizes = [LARGEST_REQUEST] * (count // LARGEST_REQUEST)
            if rest := count % LARGEST_REQUEST:
                sizes.append(rest)
            repeats = max(1, 100 // count)
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            started = time.perf_counter()
            for _ in range(repeats):
                for size in sizes:
                    _embed(url, key, texts[:size])
            seconds = (time.perf_counter() - started) / repeats
            point: Point = {"texts": count, "seconds": seconds, "us_per_text": 1e6 * seconds / count}
            point |= {
                "peak_mib": _status_kib(pid, "VmHWM") / 1024,
                "after_mib": _status_kib(pid, "VmRSS") / 1024,
            }
            points.append(point)
            _show(points)
    return points


def _embed(url: str, key: str, texts: list[str]) -> None:
    body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/embeddings", body, headers)) as answer:
        answer.read()


def by_length(at_most: int) -> list[Point]:
    """One text alone, and about 4,096 tokens in texts of this length, through tokenizer, queue and engine."""

    async def measure() -> list[Point]:
        points: list[Point] = []
        async with open_model(load_settings(environ={}), MODEL) as model:
            for length in [n for n in (4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256) if n <= at_most]:
                many = 4096 // length
                alone = await _seconds_for(model, length, 1, 60)
                batched = await _seconds_for(model, length, many, 8)
                point = {"tokens": length, "one_ms": 1000 * alone, "us_per_token_alone": 1e6 * alone / length}
                point["us_per_token_in_batches"] = 1e6 * batched / (many * length)
                points.append(point | {"rss_mib": _status_kib(os.getpid(), "VmRSS") / 1024})
                _show(points)
        return points

    return asyncio.run(measure())


async def _seconds_for(model: EmbeddingModel, length: int, count: int, repeats: int) -> float:
    """So many texts of so many tokens, from text to vector."""
    rng = np.random.default_rng(length)
    words = ["market", "price", "energy", "demand", "water", "history", "music", "science"]
    texts = [" ".join(rng.choice(words, length - 2)) for _ in range(count)]
    found = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        encodings = await model.tokenize(texts)
        assert all(e.token_count == length for e in encodings)
        await model.embed(encodings, dimensions=None, caller=NOBODY)
        found.append(time.perf_counter() - started)
    return statistics.median(found[2:])


def by_connections(at_most: int) -> list[Point]:
    """A closed loop on every connection, with the real engine, and with one that answers at once."""
    counts = [n for n in (1, 4, 16, 64, 256, 1000, 2000) if n <= at_most]
    points = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        port = _free_port()
        command = [
            sys.executable,
            str(ROOT / "benchmarks/instant.py"),
            str(port),
            folder + "/instant",
            "1",
            "0",
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.enter_context(_running(server, port))
        url, key, pid = stack.enter_context(serving(folder + "/real"))
        targets = {"": (url, key, pid), "instant_": (f"http://127.0.0.1:{port}/v1", secret_of(0), server.pid)}
        for count in counts:
            point: Point = {"connections": count}
            for prefix, (at, secret, process) in targets.items():
                row = replace(ROWS[0], connections=count)
                load(at, secret, row, 1.0, folder)
                summary = load(at, secret, row, 4.0, folder)
                point |= {f"{prefix}{name}": summary[name] for name in ("requests_per_s", "p50_ms", "p99_ms")}
                point[f"{prefix}rss_mib"] = _status_kib(process, "VmRSS") / 1024
            points.append(point)
            _show(points)
    return points


def by_ledger(at_most: int) -> list[Point]:
    """A charge, an API key's lookup and a page of history, by how many transfers are there; one key per ten of them."""
    points = []
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(Path(folder))
        there = 0
        for count in [10**power for power in range(3, 8) if 10**power <= at_most]:
            started = time.perf_counter()
            _grow(path, there, count)
            os.sync()  # what was written without waiting for the disk would be waited for by the charges
            there = count
            filled = time.perf_counter() - started
            size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
            point = asyncio.run(_charge(Path(folder), count))
            points.append(point | {"file_mib": size, "fill_s": filled})
            _show(points)
    return points


AMOUNT, CHARGES_PER_KEY, CREDIT = 12_500, 10, 10**12
FEW_KEYS = 100
"""Drawn once, so that what grows is the ledger and not the number of callers."""
HOUSE, SOURCE = "$revenue:2026-11", "$credit:2026-11"


def _grow(path: Path, first: int, last: int) -> None:
    """Write the rows that charges ``first`` to ``last`` leave: ten on each key of an account of its own.

    In an order drawn at random, so that an account's transfers lie as far apart as in a ledger that grew.
    """
    rng = random.Random(first)
    now = datetime.now(UTC)
    micros = to_micros(now)
    with closing(connect(path)) as db:
        for setting in FILLING:
            db.execute(setting)
        if first == 0:
            db.execute("INSERT INTO accounts (id, balance) VALUES (?, 0), (?, 0)", (HOUSE, SOURCE))
        for at in range(first, last, STEP):
            until = min(last, at + STEP)
            new = range(at // CHARGES_PER_KEY, until // CHARGES_PER_KEY)
            db.execute("BEGIN IMMEDIATE")
            left = CREDIT - CHARGES_PER_KEY * AMOUNT
            db.executemany(
                "INSERT INTO accounts (id, balance) VALUES (?, ?)", [(f"account_{n}", left) for n in new]
            )
            keys = (ApiKey.of_secret(secret_of(n), AccountId(f"account_{n}"), "", now) for n in new)
            # ids of keys are known by number here: a caller can be made up without a lookup
            db.executemany(
                sql("insert_key"), ((f"key_{n}", *from_key(k)[1:]) for n, k in zip(new, keys, strict=True))
            )
            histories = _Histories(db)
            db.executemany(
                sql("insert_transfer"), (histories.chained(_credit(n, micros), micros) for n in new)
            )
            turns = [n for n in new for _ in range(CHARGES_PER_KEY)]
            rng.shuffle(turns)
            db.executemany(
                sql("insert_transfer"), (histories.chained(_charged(n, micros), micros) for n in turns)
            )
            histories.store(db)
            spends = ((p.value, start) for p, start in period_starts(now))
            rows = [
                (f"key_{n}", p, start, CHARGES_PER_KEY * AMOUNT, micros) for p, start in spends for n in new
            ]
            db.executemany("INSERT INTO key_spend VALUES (?, ?, ?, ?, ?)", rows)
            db.execute(
                "UPDATE accounts SET balance = balance + ? WHERE id = ?", (AMOUNT * (until - at), HOUSE)
            )
            db.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (CREDIT * len(new), SOURCE))
            db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


Values = tuple[object, ...]


class _Histories:
    """The chains of transfers that the ledger keeps for each account."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._seq = db.execute("SELECT coalesce(max(seq), 0) FROM transfers").fetchone()[0]
        self._pages: list[Values] = []
        chains = "SELECT id, transfers, last_seq, earliest, latest FROM accounts WHERE id IN (?, ?)"
        self._chains = {
            house: _Account(True, 0, *chain) for house, *chain in db.execute(chains, (HOUSE, SOURCE))
        }

    def chained(self, row: Values, micros: int) -> Values:
        """A transfer's row, with the transfers before it."""
        self._seq += 1
        return (*row, self._next(str(row[1]), micros), self._next(str(row[2]), micros))

    def _next(self, account: str, micros: int) -> int:
        chain = self._chains.get(account)
        if chain is None:
            chain = self._chains[account] = _Account()
        before = chain.last_seq
        chain.move(0, self._seq, micros)
        if chain.transfers % PAGE == 0:
            self._pages.append((account, self._seq, chain.earliest, chain.latest))
        return before

    def store(self, db: sqlite3.Connection) -> None:
        """Write what accounts and pages say of them."""
        rows = [
            (c.transfers, c.last_seq, c.earliest, c.latest, account) for account, c in self._chains.items()
        ]
        db.executemany(
            "UPDATE accounts SET transfers = ?, last_seq = ?, earliest = ?, latest = ? WHERE id = ?", rows
        )
        db.executemany(sql("insert_history_page"), self._pages)


STEP = 100_000
FILLING = (
    "PRAGMA synchronous = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA cache_size = -1048576",
    "PRAGMA wal_autocheckpoint = 131072",
)
"""No durability, no checks, 1 GiB of pages: ten million charges in two to three minutes."""


def _credit(number: int, micros: int) -> Values:
    account = f"account_{number}"
    return (new_id("crd"), SOURCE, account, CREDIT, "CREDIT", micros, None, None, None, 0, None, None, "")


def _charged(number: int, micros: int) -> Values:
    account, key = f"account_{number}", f"key_{number}"
    return (
        new_id("chg"),
        account,
        HOUSE,
        AMOUNT,
        "CHARGE",
        micros,
        new_id("req"),
        key,
        MODEL,
        1,
        5,
        None,
        "",
    )


async def _charge(folder: Path, count: int) -> Point:
    """Holds and charges one at a time and 64 at once, on a hundred keys and on all; lookups; a page of history."""
    rng = np.random.default_rng(count)
    price = Price.per_million("0.0125")
    store = await open_sqlite(folder)

    keys = count // CHARGES_PER_KEY
    few = rng.choice(keys, FEW_KEYS, replace=False)

    def principals(times: int, among: Numbers | None = None) -> list[Principal]:
        numbers = rng.integers(keys, size=times) if among is None else rng.choice(among, times)
        return [Principal(AccountId(f"account_{n}"), KeyId(f"key_{n}")) for n in numbers.tolist()]

    async def charge(found: list[float], callers: Sequence[Principal]) -> None:
        for caller in callers:
            quote = Quote(ModelId(MODEL), 1, price)
            hold = Hold(TransferId(new_id("chg")), caller, quote, RequestId(new_id("req")))
            started = time.perf_counter()
            await store.ledger.hold(hold)
            await store.ledger.charge(hold, 1, 5)
            found.append(time.perf_counter() - started)

    async def at_once(among: Numbers | None = None) -> float:
        """Charges per second."""
        found: list[float] = []
        callers = [principals(200, among) for _ in range(64)]
        started = time.perf_counter()
        await asyncio.gather(*(charge(found, each) for each in callers))
        return len(found) / (time.perf_counter() - started)

    async def seconds(call: Callable[[], Awaitable[object]], times: int = 200) -> float:
        found = []
        for _ in range(times):
            started = time.perf_counter()
            await call()
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    try:
        one: list[float] = []
        await asyncio.gather(*(charge([], principals(8)) for _ in range(64)))
        await charge(one, principals(200))
        of_few, rate = await at_once(few), await at_once()
        lookup = await seconds(lambda: store.keys.by_digest(digest_of(secret_of(int(rng.integers(keys))))))
        page = await seconds(lambda: store.ledger.usage(UsageQuery(principals(1)[0].account, limit=100)))
        if count <= VERIFIED:
            assert (await store.ledger.verify()).is_clean, "the rows are not those that charges leave"
    finally:
        await store.close()
    return {"transfers": count, "keys": keys, "one_charge_ms": 1000 * statistics.median(one),
            "charge_us_on_100_keys": 1e6 / of_few, "charge_us_on_all_keys": 1e6 / rate, "charges_per_s": rate,
            "key_lookup_ms": 1000 * lookup, "history_page_ms": 1000 * page}  # fmt: skip


VERIFIED = 100_000
"""Ledgers up to this size are verified: every balance and spend from the transfers."""


def _show(points: list[Point]) -> None:
    print("  " + "  ".join(f"{name} {value:,.3g}" if value < 1e3 else f"{name} {value:,.0f}"
                           for name, value in points[-1].items()), file=sys.stderr, flush=True)  # fmt: skip


TABLES: dict[str, tuple[Callable[[int], list[Point]], int]] = {
    "texts": (by_texts, 100_000),
    "length": (by_length, 256),
    "connections": (by_connections, 2000),
    "ledger": (by_ledger, 10**7),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--at-most", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    measure, largest = TABLES[options.table]
    packages = versions("vectoll", "openvino", "uvicorn", "uvloop") | {"sqlite": sqlite3.sqlite_version}
    with recording(f"growth-{options.table}", packages, options.out) as result:
        result["points"] = measure(options.at_most or largest)


if __name__ == "__main__":
    main()
