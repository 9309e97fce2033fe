"""A query while somebody else ingests: its latency beside bulk requests, what those lose by it, and infinity-emb.

    python benchmarks/fairness.py --infinity PYTHON         # two minutes; --seconds 2 --rounds 1 for a look

One caller keeps a request of 64 short texts in flight on each of four connections; another sends ten single texts a
second, at random. Each server in turn, on the same two cores as the load generators. vectoll tells the callers apart by
their keys; to infinity-emb they are the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.http_peers import infinity_versions, open_loop, serving_infinity  # noqa: E402
from benchmarks.record import recording, versions  # noqa: E402
from benchmarks.server import HERE, ROWS, Row, bodies_of, create_key, load, serving  # noqa: E402

BULK = Row("64 short texts a request, 4 connections", 64, (4, 16), 4, "float")
QUERY = ROWS[0]
QUERIES_PER_S = 10
LEAD_S = 0.5
"""Bulk is there before the first query, and still after the last."""

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
        result["rows"] = measure(targets, options.rounds, options.seconds, folder)
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
