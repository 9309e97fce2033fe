"""Mixed traffic against one server for a long time: does it stay as it was?

    python -m benchmarks.soak --minutes 30

One `vectoll serve` with SQLite. First customers without a pause, until the ledger is twice as large as its page cache,
which then is full. Then every kind of caller at once (``faults/callers.py``): keys, wallets that sign in and pay, JWTs,
bulk requests, callers who leave, nonsense. Prints a JSON summary; exit code 1 unless

- resident memory stays within 5 % of what it was after the warm-up (medians of minutes),
- open files, threads and the database's log stay what they were, but for a few that come and go,
- no answer is a 5xx (nothing here asks for one) or another than the OpenAPI document promises,
- the p99 of single texts in the last third is at most 1.3 times that of the first third (medians of minutes), or times
  what the same piece of arithmetic took longer by then, where others use the machine too,
- `vectoll ledger verify` is clean, and what was charged is what was delivered.

A machine that stands still for a while is no failure: what was under way then is left out of the latencies.
"""

import argparse
import asyncio
import json
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.books import check_payments, compare, read_sqlite
from benchmarks.faults.callers import Crowd, Payer, customer
from benchmarks.faults.client import Client, Gateway, open_session
from benchmarks.faults.crowd import PAY_TO, RICH_USD, buyer, gather, make_world
from tests.chains.anvil import run_anvil
from tests.live import Server, Vectoll

from vectoll.server.freed_memory import resident_bytes

MEMORY_MAY_GROW = 0.05
FILES_MAY_GROW = 8
"""Open files, connections among them, when fewest are open in a minute; and threads, of which pools make some late."""
LOG_MAY_HAVE = 72 * 2**20
"""Bytes: what SQLite cuts its log to (``adapters/storage/sqlite/connection.py``), and a little."""
P99_MAY_GROW = 1.3
TICK_S = 0.25
LEDGER_MAY_CACHE = 8 * 2**20
"""Bytes of pages that SQLite keeps (``adapters/storage/sqlite/connection.py``). No leak, but filling it takes this
traffic twenty minutes."""
FILLERS = 16
ARITHMETIC = 50_000
FEW = 50
"""Answers in a minute, below which it has no p99."""
STOOD_STILL_S = 1.0
"""A tick that comes so much late means that the machine, or this process, stood still."""


@dataclass
class Watch:
    """Memory, what else a process can have too many of, and when the machine stood still."""

    pid: int
    log: Path
    """The database's."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Monotonic seconds, and bytes resident."""
    files: list[tuple[float, int]] = field(default_factory=list)
    threads: list[tuple[float, int]] = field(default_factory=list)
    log_bytes: list[tuple[float, int]] = field(default_factory=list)
    standstills: list[tuple[float, float]] = field(default_factory=list)
    arithmetic: list[tuple[float, float]] = field(default_factory=list)
    """How long the same piece of it took, when."""

    async def run(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if now - before > TICK_S + STOOD_STILL_S:
                self.standstills.append((before, now))
            sum(range(ARITHMETIC))
            before = time.monotonic()
            self.arithmetic.append((now, before - now))
            self.memory.append((now, resident_bytes(self.pid)))
            self.files.append((now, entries(self.pid, "fd")))
            self.threads.append((now, entries(self.pid, "task")))
            self.log_bytes.append((now, self.log.stat().st_size))

    def was_undisturbed(self, began: float, seconds: float) -> bool:
        return all(began + seconds < start or end < began for start, end in self.standstills)


def entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())


def by_minute(points: Sequence[tuple[float, float]], began: float) -> list[list[float]]:
    """Values of each whole minute, in order; a last minute that is not over is left out."""
    last = int((points[-1][0] - began) // 60) if points else 0
    minutes: list[list[float]] = [[] for _ in range(last)]
    for at, value in points:
        if 0 <= (minute := int((at - began) // 60)) < last:
            minutes[minute].append(value)
    return minutes


def p99_ms(seconds: Sequence[float]) -> float:
    return round(sorted(seconds)[int(len(seconds) * 0.99)] * 1000, 2)


def drift_of(minutes: Sequence[float]) -> float:
    """How many times the last third is the first."""
    third = max(1, len(minutes) // 3)
    return statistics.median(minutes[-third:]) / statistics.median(minutes[:third])


def judge(client: Client, watch: Watch, began: float, warm_up_minutes: int) -> dict[str, Any]:
    """The figures, and the reasons why they are not good enough."""
    calm = [(at, s) for at, s in client.latencies if watch.was_undisturbed(at, s)]
    memory = [
        statistics.median(values) / 2**20
        for values in by_minute(watch.memory, began)[warm_up_minutes:]
        if values
    ]
    minutes = zip(by_minute(calm, began), by_minute(watch.arithmetic, began), strict=False)
    busy = [pair for pair in list(minutes)[warm_up_minutes:] if len(pair[0]) >= FEW]
    p99s, own = [p99_ms(answers) for answers, _ in busy], [p99_ms(times) for _, times in busy]
    failures = list(client.violations)
    growth = max(memory) / memory[0] - 1
    if growth > MEMORY_MAY_GROW:
        failures.append(f"memory grew by {growth:.1%}")
    fewest = {
        what: [int(min(values)) for values in by_minute(points, began)[warm_up_minutes:] if values]
        for what, points in (("open_files", watch.files), ("threads", watch.threads))
    }
    failures += [
        f"{what} grew from {few[0]} to {few[-1]}"
        for what, few in fewest.items()
        if few[-1] > few[0] + FILES_MAY_GROW
    ]
    log_bytes = max(size for _, size in watch.log_bytes)
    if log_bytes > LOG_MAY_HAVE:
        failures.append(f"the database's log had {log_bytes} bytes")
    drift, own_drift = drift_of(p99s), drift_of(own)
    if drift > P99_MAY_GROW * max(1.0, own_drift):
        failures.append(f"p99 grew {drift:.2f} times")
    statuses = {kind: dict(counts) for kind, counts in client.statuses.items()}
    server_errors = sum(n for counts in statuses.values() for status, n in counts.items() if status[0] == "5")
    if server_errors:
        failures.append(f"{server_errors} answers of 500 or more")
    return {
        "requests": sum(sum(counts.values()) for counts in statuses.values()),
        "statuses": statuses,
        "memory_mib_by_minute": [round(m, 1) for m in memory],
        "memory_growth": round(growth, 4),
        **{f"{what}_by_minute": few for what, few in fewest.items()},
        "log_mib": round(log_bytes / 2**20, 1),
        "p99_ms_by_minute": p99s,
        "p50_ms_by_minute": [round(statistics.median(answers) * 1000, 2) for answers, _ in busy],
        "p99_drift": round(drift, 3),
        "arithmetic_p99_ms_by_minute": own,
        "arithmetic_p99_drift": round(own_drift, 3),
        "standstills_s": [round(end - start, 1) for start, end in watch.standstills],
        "failures": failures,
    }


async def soak(server: Server, log: Path, client: Client, crowd: Any, minutes: float) -> tuple[Watch, float]:
    """The traffic, watched. Returns the watch and when it began."""
    watch, is_over, began = Watch(server.process.pid, log), asyncio.Event(), time.monotonic()
    watching = asyncio.create_task(watch.run())
    calling = asyncio.create_task(crowd.run(client, "soak", is_over))
    try:
        await asyncio.wait({watching, calling}, timeout=minutes * 60, return_when=asyncio.FIRST_COMPLETED)
    finally:
        is_over.set()
        await calling
        watching.cancel()
    return watch, began


async def fill(client: Client, vectoll: Vectoll) -> None:
    """Charges until the ledger has outgrown its page cache."""
    customers = {f"filler {n}": customer(buyer(vectoll, RICH_USD), most_texts=1) for n in range(FILLERS)}
    is_over = asyncio.Event()
    calling = asyncio.create_task(Crowd(customers, pause_s=1e-6).run(client, "fill", is_over))
    with closing(sqlite3.connect(f"file:{ledger_file(vectoll)}?mode=ro", uri=True)) as ledger:
        while not calling.done():
            (pages,), (size,) = (
                ledger.execute(f"PRAGMA {of}").fetchone() for of in ("page_count", "page_size")
            )
            if pages * size >= 2 * LEDGER_MAY_CACHE:
                break
            await asyncio.sleep(TICK_S)
    is_over.set()
    await calling


def ledger_file(vectoll: Vectoll) -> Path:
    return vectoll.data_dir / "vectoll.sqlite3"


async def run(minutes: float, warm_up_minutes: int, pause_s: float, home: Path) -> dict[str, Any]:
    with run_anvil() as chain:
        world = make_world(chain, home)
        vectoll = Vectoll(home / "vectoll", config="", **world.settings())
        crowd, payer = gather(vectoll, world, pause_s)
        with vectoll.serve() as server:
            async with open_session() as session:
                client = Client([Gateway(server.url)], session, "soak")
                await client.learn()
                await fill(client, vectoll)
                log = ledger_file(vectoll).with_name(f"{ledger_file(vectoll).name}-wal")
                watch, began = await soak(server, log, client, crowd, minutes)
        report = judge(client, watch, began, warm_up_minutes)
        report["failures"] += check_books(vectoll, client, payer, chain.usdc(PAY_TO))
    return {"minutes": minutes, **report, "verdict": "failed" if report["failures"] else "passed"}


def check_books(vectoll: Vectoll, client: Client, payer: Payer, moved: int) -> list[str]:
    """What is wrong with the ledger once the server has ended."""
    verified = vectoll.try_run("ledger", "verify")
    problems = [] if verified.returncode == 0 else [f"ledger verify: {verified.stdout}"]
    ledger = read_sqlite(ledger_file(vectoll))
    return [
        *problems,
        *compare(client.purchases, ledger).violations,
        *check_payments(payer.credited, moved, ledger),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=int, help="minutes that are not judged; else a sixth, at least one")
    parser.add_argument("--pause-s", type=float, default=0.25, help="mean pause of each of 11 callers")
    args = parser.parse_args()
    warm_up = max(1, round(args.minutes / 6)) if args.warm_up is None else args.warm_up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with tempfile.TemporaryDirectory(prefix="vectoll-soak-") as home:
        report = asyncio.run(run(args.minutes, warm_up, args.pause_s, Path(home)))
    print(json.dumps(report, indent=2))
    sys.exit(report["verdict"] != "passed")


if __name__ == "__main__":
    main()
