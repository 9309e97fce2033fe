"""A query while somebody else ingests: its latency beside bulk requests, what those lose by it, and infinity-emb.

    python benchmarks/fairness.py --infinity PYTHON    # six minutes, 2 GB of disk; --seconds 2 --rounds 1 for a look

One caller keeps a request of 64 short texts in flight on each of four connections; another sends ten single texts a
second, at random. Each server in turn, on the same two cores as the load generators. vectoll tells the callers apart by
their keys; to infinity-emb they are the same.

Then larger models, of the catalogue's sizes with random weights, through the queue that serves: queries of 16 tokens
one after another beside requests of 64 texts of 128 tokens, where queries are computed beside them and where they wait
for their turn.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import loaded  # noqa: E402
from benchmarks.http_peers import infinity_versions, open_loop, serving_infinity  # noqa: E402
from benchmarks.large_models import texts_of, write_checkpoint  # noqa: E402
from benchmarks.record import recording, versions  # noqa: E402
from benchmarks.server import HERE, ROWS, Row, bodies_of, create_key, load, serving  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint  # noqa: E402
from vectoll.core.batching.batcher import Batcher  # noqa: E402
from vectoll.domain.identity import Caller  # noqa: E402
from vectoll.ports.metrics import NoMetrics  # noqa: E402

BULK = Row("64 short texts a request, 4 connections", 64, (4, 16), 4, "float")
QUERY = ROWS[0]
QUERIES_PER_S = 10
LEAD_S = 0.5
"""Bulk is there before the first query, and still after the last."""

LARGE = ("bge-m3", "qwen3-0.6b")
LARGE_QUERIES = 8

Target = tuple[str, str, str]
"""Base URL, the key of who ingests, the key of who asks."""


def beside_bulk(target: Target, seconds: float, folder: str) -> tuple[dict[str, Any], float]:
    """The queries' summary, and texts/s of the bulk meanwhile."""
    url, ingests, asks = target
    file = Path(folder, "bulk.jsonl")
    file.write_bytes(b"\n".join(bodies_of(BULK)))
    command = [sys.executable, str(HERE / "load.py"), "--url", url, "--key", ingests, "--bodies", str(file)]
    command += ["--connections", str(BULK.connections), "--seconds", str(seconds + 2 * LEAD_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as bulk:
        try:
            bulk.wait(LEAD_S)
        except subprocess.TimeoutExpired:
            queries = open_loop(url, asks, QUERY, QUERIES_PER_S, seconds, "random", folder)
        else:
            raise SystemExit("the load generator ended before its time")
        answered = json.loads(bulk.communicate()[0])
    if set(answered["statuses"]) != {"200"}:
        raise SystemExit(f"not every answer was 200: {answered['statuses']}")
    return queries, answered["requests_per_s"] * BULK.texts_per_request


def measure(targets: dict[str, Target], rounds: int, seconds: float, folder: str) -> list[dict[str, Any]]:
    """A row for each, of medians over rounds in turn."""
    found: dict[str, list[dict[str, float]]] = {who: [] for who in targets}
    for number in range(rounds + 1):
        for who, target in targets.items():
            url, ingests, asks = target
            alone = open_loop(url, asks, QUERY, QUERIES_PER_S, seconds, "random", folder)
            bulk_alone = load(url, ingests, BULK, seconds, folder)["requests_per_s"] * BULK.texts_per_request
            beside, bulk = beside_bulk(target, seconds, folder)
            if number:  # the first warms up
                found[who].append(
                    {
                        "alone_p50_ms": alone["p50_ms"],
                        "alone_p99_ms": alone["p99_ms"],
                        "beside_p50_ms": beside["p50_ms"],
                        "beside_p99_ms": beside["p99_ms"],
                        "bulk_alone_texts_per_s": bulk_alone,
                        "bulk_texts_per_s": bulk,
                    }
                )
    return [
        {"who": who, **{name: round(statistics.median(run[name] for run in runs), 1) for name in runs[0]}}
        for who, runs in found.items()
    ]


async def large_beside_bulk(checkpoint: Checkpoint, *, has_own_thread: bool) -> dict[str, float]:
    """Milliseconds of a query alone and beside bulk, and tokens/s of the bulk."""
    engine = loaded(checkpoint)
    shape = engine.shape if has_own_thread else replace(engine.shape, query_tokens=0)
    limits: dict[str, Any] = {"model": "benchmark", "max_queue_tokens": 10**6, "max_wait_s": 1e9}
    batcher = Batcher(engine.engine, shape, metrics=NoMetrics(), **limits)
    (query,) = texts_of(16, 1)
    texts = texts_of(128, 64)
    finished: asyncio.Queue[None] = asyncio.Queue()

    async def ask() -> float:
        started = time.perf_counter()
        await batcher.compute([query], Caller.keyless("asks"))
        return 1000 * (time.perf_counter() - started)

    async def ingest() -> None:
        while True:
            await batcher.compute(texts, Caller.keyless("ingests"))
            finished.put_nowait(None)

    await ask()
    alone = [await ask() for _ in range(LARGE_QUERIES)]
    bulk = [asyncio.create_task(ingest()) for _ in range(3)]
    await finished.get()
    started = time.perf_counter()
    beside = [await ask() for _ in range(LARGE_QUERIES)]
    for _ in bulk:
        await finished.get()
    requests = len(bulk) + finished.qsize()
    rate = requests * sum(map(len, texts)) / (time.perf_counter() - started)
    for task in bulk:
        task.cancel()
    await batcher.close()
    return {
        "alone_ms": round(statistics.median(alone), 1),
        "beside_p50_ms": round(statistics.median(beside), 1),
        "beside_most_ms": round(max(beside), 1),
        "bulk_tokens_per_s": round(rate, 1),
    }


def measure_large() -> list[dict[str, Any]]:
    """A row for each model and way."""
    rows = []
    for model in LARGE:
        with tempfile.TemporaryDirectory(prefix="vectoll-fairness-") as folder:
            checkpoint = write_checkpoint(model, Path(folder))
            for has_own_thread in (True, False):
                found = asyncio.run(large_beside_bulk(checkpoint, has_own_thread=has_own_thread))
                rows.append({"model": model, "has_own_thread": has_own_thread, **found})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--infinity", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    packages = versions("vectoll", "uvicorn", "uvloop") | infinity_versions(options.infinity)
    with recording("fairness", packages, options.out) as result, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        data_dir = f"{folder}/data"
        url, key, _ = stack.enter_context(serving(data_dir))
        theirs, _ = stack.enter_context(serving_infinity(options.infinity))
        targets = {"vectoll": (url, key, create_key(data_dir)), "infinity-emb": (theirs, key, key)}
        result["large"] = measure_large()
        result["rows"] = measure(targets, options.rounds, options.seconds, folder)
    print(json.dumps({"rows": result["rows"], "large": result["large"]}, indent=1))


if __name__ == "__main__":
    main()
