"""What the HTTP and billing layers cost: the server's rate as a share of the engine's own, on the same texts.

    python benchmarks/server.py                 # two minutes; --seconds 3 for a quick look

Everything is on: authentication, limits (set out of reach), metering, the durable ledger, JSON. The load comes from a
process of its own on the same cores, as it would on a developer's machine, so its CPU is part of what is measured.
"HTTP alone" is ``floor.py``: the same HTTP server and engine with nothing between. All take turns; each row is a
median over the rounds.
"""

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vectoll.server.freed_memory import resident_bytes

MODEL = "all-MiniLM-L6-v2"
HERE = Path(__file__).resolve().parent
VECTOLL = [str(Path(sys.executable).with_name("vectoll"))]
PROSE = (
    "the market price of energy rises when demand grows faster than supply people search for answers about "
    "health travel food music science history and the law every day small models turn text into vectors that "
    "can be compared stored and searched quickly on ordinary machines without special hardware or networks"
)
WORDS = PROSE.split()


@dataclass(frozen=True)
class Row:
    """One kind of traffic."""

    name: str
    texts_per_request: int
    words: tuple[int, int]
    connections: int
    encoding: str


ROWS = (
    Row("short texts, 64 connections, float", 1, (4, 16), 64, "float"),
    Row("short texts, 64 connections, base64", 1, (4, 16), 64, "base64"),
    Row("64 mixed texts a request, 8 connections", 64, (4, 160), 8, "base64"),
    Row("one short text at a time", 1, (4, 16), 1, "float"),
)


def texts_of(row: Row, count: int = 2048) -> list[str]:
    """The same texts in every run."""
    rng = random.Random(7)
    return [" ".join(rng.choices(WORDS, k=rng.randint(*row.words))) for _ in range(count)]


def bodies_of(row: Row) -> list[bytes]:
    """The texts as request bodies."""
    texts, size = texts_of(row), row.texts_per_request
    groups = [texts[at : at + size] for at in range(0, len(texts), size)]
    requests = [
        {"model": MODEL, "input": group if size > 1 else group[0], "encoding_format": row.encoding}
        for group in groups
    ]
    return [json.dumps(request).encode() for request in requests]


@contextmanager
def serving(data_dir: str, precision: str = "auto") -> Iterator[tuple[str, str, int]]:
    """A server with limits out of reach: base URL, key, process id."""
    config = Path(f"{data_dir}.toml")
    config.write_text(f'[[models]]\nid = "{MODEL}"\nprecision = "{precision}"\n')
    environ = {
        **os.environ,
        "VECTOLL_CONFIG": str(config),
        "VECTOLL_DATA_DIR": data_dir,
        "VECTOLL_LIMITS__REQUESTS_PER_MINUTE": "0",
        "VECTOLL_LIMITS__TOKENS_PER_MINUTE": "0",
        "VECTOLL_LIMITS__REQUESTS_IN_FLIGHT": "4096",
        "VECTOLL_LOG__LEVEL": "warning",
    }
    port, key = _free_port(), create_key(data_dir)
    server = subprocess.Popen(
        [*VECTOLL, "serve", "--port", str(port)], env=environ, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    with _running(server, port):
        yield f"http://127.0.0.1:{port}/v1", key, server.pid


def create_key(data_dir: str) -> str:
    """A key of an account of its own, with credit."""
    made = subprocess.run(
        [*VECTOLL, "keys", "create", "--name", "bench", "--credit-usd", "10000", "--json"],
        env={**os.environ, "VECTOLL_DATA_DIR": data_dir},
        check=True,
        capture_output=True,
    )
    key: str = json.loads(made.stdout)["key"]
    return key


@contextmanager
def serving_floor() -> Iterator[str]:
    """``floor.py``: its base URL."""
    port = _free_port()
    server = subprocess.Popen([sys.executable, str(HERE / "floor.py"), "--port", str(port)])
    with _running(server, port):
        yield f"http://127.0.0.1:{port}/v1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _running(server: subprocess.Popen[bytes], port: int) -> Iterator[None]:
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/ready", server)
        yield
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server did not start")


def load(url: str, key: str, row: Row, seconds: float, work_dir: str) -> dict[str, float]:
    """Run the load generator in a process of its own."""
    bodies = Path(work_dir, "bodies.jsonl")
    bodies.write_bytes(b"\n".join(bodies_of(row)))
    command = [sys.executable, str(HERE / "load.py"), "--url", url, "--key", key, "--bodies", str(bodies)]
    command += ["--connections", str(row.connections), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True)
    summary = json.loads(done.stdout)
    if set(statuses := summary.pop("statuses")) != {"200"}:
        raise SystemExit(f"not every answer was 200: {statuses}")
    return cast("dict[str, float]", summary)


def engine_texts_per_s(row: Row, seconds: float) -> float:
    """``run_engine_only`` in a process of its own, on all cores."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--engine-only",
        row.name,
        "--seconds",
        str(seconds),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def run_engine_only(row: Row, seconds: float) -> float:
    """Texts per second where nothing is in the way: all texts in two bulk calls that overlap, so that batches are
    sorted by length over the whole corpus and no core ever waits. No HTTP, no ledger, no single requests.
    """
    import asyncio

    import uvloop

    from vectoll.domain.identity import NOBODY
    from vectoll.loading import open_model
    from vectoll.settings import load_settings

    async def measure() -> float:
        texts = texts_of(row)
        async with open_model(load_settings(environ={}), MODEL) as model:

            async def once() -> int:
                await model.embed(await model.tokenize(texts), dimensions=None, caller=NOBODY)
                return len(texts)

            async def stream(deadline: float) -> int:
                done = 0
                while time.perf_counter() < deadline:
                    done += await once()
                return done

            await once()
            started = time.perf_counter()
            counts = await asyncio.gather(stream(started + seconds), stream(started + seconds))
            return sum(counts) / (time.perf_counter() - started)

    return uvloop.run(measure())


def measure(rows: Sequence[Row], rounds: int, seconds: float) -> list[dict[str, object]]:
    """Every row, engine and server in turn."""
    results = []
    with (
        tempfile.TemporaryDirectory() as work_dir,
        serving(work_dir + "/data") as (url, key, pid),
        serving_floor() as floor_url,
    ):
        for row in rows:
            for warm_url in (url, floor_url):
                load(warm_url, key, row, min(1.0, seconds), work_dir)
            engine, served, floor = [], [], []
            for _ in range(rounds):
                engine.append(engine_texts_per_s(row, seconds))
                served.append(load(url, key, row, seconds, work_dir))
                floor.append(load(floor_url, key, row, seconds, work_dir)["requests_per_s"])
            texts_per_s = [s["requests_per_s"] * row.texts_per_request for s in served]
            share = statistics.median(t / e for t, e in zip(texts_per_s, engine, strict=True))
            results.append(
                {
                    "row": row.name,
                    "engine_texts_per_s": round(statistics.median(engine), 1),
                    "server_texts_per_s": round(statistics.median(texts_per_s), 1),
                    "share": round(share, 3),
                    "floor_texts_per_s": round(statistics.median(floor) * row.texts_per_request, 1),
                    "p50_ms": round(statistics.median(s["p50_ms"] for s in served), 2),
                    "p99_ms": round(statistics.median(s["p99_ms"] for s in served), 2),
                    "generator_cores": round(statistics.median(s["generator_cpu"] for s in served), 3),
                    "server_rss_mb": _rss_mb(pid),
                }
            )
            print(f"  {row.name}: {results[-1]}", file=sys.stderr)
    return results


def soak(requests: int) -> dict[str, object]:
    """Serve ``requests`` short texts over 64 connections and watch the server's memory; MB at each tenth."""
    row = ROWS[0]
    rss: list[int] = []
    sent = 0
    with tempfile.TemporaryDirectory() as work_dir, serving(work_dir + "/data") as (url, key, pid):
        while sent < requests:
            sent += int(load(url, key, row, 5.0, work_dir)["requests"])
            if sent >= requests * (len(rss) + 1) / 10:
                rss.append(_rss_mb(pid))
                print(f"  {sent} requests: {rss[-1]} MB", file=sys.stderr)
    return {"requests": sent, "rss_mb": rss, "growth_after_first_tenth": round(rss[-1] / rss[0] - 1, 3)}


def _rss_mb(pid: int) -> int:
    return resident_bytes(pid) // 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", type=int, action="append", help="only this row, from 0")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--soak", type=int, metavar="REQUESTS", help="only watch memory over this many requests"
    )
    parser.add_argument("--engine-only", metavar="ROW", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine_only:
        print(run_engine_only(next(row for row in ROWS if row.name == args.engine_only), args.seconds))
        return
    if args.soak:
        print(json.dumps(soak(args.soak)))
        return
    rows = [ROWS[number] for number in args.row] if args.row else ROWS
    results = measure(rows, args.rounds, args.seconds)
    if args.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "rows": results}, indent=2))
        return
    print(
        "| traffic | engine texts/s | HTTP alone texts/s | server texts/s | share of engine | p50 ms | p99 ms |\n"
        "|---|---|---|---|---|---|---|"
    )
    for r in results:
        cells = (
            "row",
            "engine_texts_per_s",
            "floor_texts_per_s",
            "server_texts_per_s",
            "share",
            "p50_ms",
            "p99_ms",
        )
        print("| " + " | ".join(str(r[cell]) for cell in cells) + " |")


if __name__ == "__main__":
    main()
