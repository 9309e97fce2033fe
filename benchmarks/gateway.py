"""Requests/s of the gateway with an engine that answers at once, for API keys and for wallets.

    python benchmarks/gateway.py                     # two minutes; --seconds 1 --rounds 1 for a look

The server (``instant.py``) has one core to itself, the load generator another. Every request is authenticated,
validated, counted, tokenised, held, charged durably in SQLite, and answered with 384 numbers. A wallet's request
carries a sign-in of its own, as the neighbours' clients send it: a nonce is good once. Signing happens before the
clock. What each stage costs: ``stages.py``.
"""

import argparse
import asyncio
import base64
import json
import os
import pickle
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.instant import URL, address_of, secret_of, wallet_of  # noqa: E402
from benchmarks.load import Connection, Tally, _request, _summary  # noqa: E402
from benchmarks.record import process_seconds, recording, versions  # noqa: E402
from benchmarks.server import MODEL, ROWS, _free_port, _running, texts_of  # noqa: E402

from vectoll.adapters.chains.secp256k1 import eip191_digest  # noqa: E402

SERVER_CORE, LOAD_CORE = 0, 1
WALLETS = 64
KEYS = 64
WALLET_RATE = 4500
"""More sign-ins a second are prepared than any machine at hand can take."""


def sign_in(number: int) -> str:
    """A fresh header of wallet ``number``, in the shape that the API description shows."""
    wallet, address, now = wallet_of(number), address_of(number), datetime.now(UTC)
    text = (
        f"{URL[8:]} wants you to sign in with your Ethereum account:\n{address}\n\nSign in\n\nURI: {URL}\n"
        f"Version: 1\nChain ID: 8453\nNonce: {secrets.token_hex(8)}\nIssued At: {now.isoformat()}\n"
        f"Expiration Time: {(now + timedelta(minutes=9)).isoformat()}"
    )
    parity, r, s = wallet.sign(eip191_digest(text.encode()))
    signature = "0x" + r.to_bytes(32, "big").hex() + s.to_bytes(32, "big").hex() + f"{27 + parity:02x}"
    payload = {"address": address, "message": text, "signature": signature, "chainId": 8453}
    return base64.b64encode(json.dumps(payload).encode()).decode()


def bodies(count: int, encoding: str) -> list[bytes]:
    texts = texts_of(ROWS[0], count)
    return [json.dumps({"model": MODEL, "input": t, "encoding_format": encoding}).encode() for t in texts]


def key_requests(port: int, connections: int, accept: str, encoding: str) -> list[list[bytes]]:
    """A list per connection, to be repeated."""
    host, texts = f"127.0.0.1:{port}", bodies(connections * 4, encoding)
    return [
        [
            _request(host, "/api/v1/embeddings", secret_of(at % KEYS), body, accept)
            for body in texts[at::connections]
        ]
        for at in range(connections)
    ]


def wallet_requests(port: int, connections: int, each: int) -> list[list[bytes]]:
    """A list per connection, each request of which is good once."""
    texts = bodies(64, "float")
    made = []
    for at in range(connections):
        number, requests = at % WALLETS + 1, []
        for turn in range(each):
            body = texts[(at + turn) % 64]
            head = (
                f"POST /api/v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nsign-in-with-x: {sign_in(number)}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            requests.append(head.encode() + body)
        made.append(requests)
    return made


async def drive(port: int, requests: Sequence[Sequence[bytes]], seconds: float) -> dict[str, object]:
    """A closed loop on every connection."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in requests]
    tally = Tally(deadline=time.perf_counter() + seconds)
    started, used = time.perf_counter(), time.process_time()
    for own, done in zip(requests, futures, strict=True):
        await loop.create_connection(partial(Connection, own, 0, tally, done), "127.0.0.1", port)
    await asyncio.gather(*futures)
    elapsed = time.perf_counter() - started
    return _summary(tally, elapsed) | {"generator_cpu": (time.process_time() - used) / elapsed}


def load(port: int, requests: Sequence[Sequence[bytes]], seconds: float, file: Path) -> dict[str, Any]:
    """``drive`` in a process of its own, on its own core."""
    file.write_bytes(pickle.dumps(requests))
    command = [sys.executable, str(Path(__file__).resolve()), "--drive", str(file), str(port), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True)
    summary = cast("dict[str, Any]", json.loads(done.stdout))
    if set(summary["statuses"]) != {"200"}:
        raise SystemExit(f"not every answer was 200: {summary['statuses']}")
    return summary


def measure_rates(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One server for keys, one for wallets, in turn."""
    kinds: dict[str, tuple[bool, Callable[[int], list[list[bytes]]]]] = {
        "API keys, float": (False, lambda port: key_requests(port, 64, "", "float")),
        "API keys, float, gzip": (False, lambda port: key_requests(port, 64, "gzip", "float")),
        "API keys, base64": (False, lambda port: key_requests(port, 64, "", "base64")),
        "wallets, a fresh sign-in per request": (
            True,
            lambda port: wallet_requests(port, 64, int(WALLET_RATE * seconds / 64) + 8),
        ),
    }
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports = {}
        for has_wallets in (False, True):
            port = _free_port()
            command = [
                sys.executable,
                str(ROOT / "benchmarks/instant.py"),
                str(port),
                f"{folder}/{has_wallets}",
            ]
            server = subprocess.Popen(
                [*command, str(KEYS), str(WALLETS if has_wallets else 0)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),  # noqa: PLW1509 - one thread
            )
            stack.enter_context(_running(server, port))
            ports[has_wallets] = (port, server.pid)
        for number in range(rounds + 1):
            for kind, (has_wallets, requests_of) in kinds.items():
                port, pid = ports[has_wallets]
                requests = requests_of(port)
                before, began = process_seconds(pid), time.perf_counter()
                summary = load(port, requests, seconds, Path(folder, "requests"))
                used = process_seconds(pid) - before
                if number:  # the first warms up
                    summary["server_us"] = 1e6 * used / summary["requests"]
                    found[kind].append(summary)
                print(
                    f"  {kind}: {summary['requests_per_s']:.0f}/s, {time.perf_counter() - began:.0f} s",
                    file=sys.stderr,
                )
    return [_row(kind, summaries) for kind, summaries in found.items()]


def _row(kind: str, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def median(name: str) -> float:
        return float(statistics.median(s[name] for s in summaries))

    return {
        "row": kind,
        "requests_per_s": round(median("requests_per_s")),
        "p50_ms": round(median("p50_ms"), 2),
        "p99_ms": round(median("p99_ms"), 2),
        "server_cpu_us_per_request": round(median("server_us")),
        "generator_cores": round(median("generator_cpu"), 2),
        "requests_per_s_by_round": [round(s["requests_per_s"]) for s in summaries],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--drive", nargs=3, metavar=("FILE", "PORT", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        os.sched_setaffinity(0, {LOAD_CORE})
        file, port, seconds = options.drive
        requests = pickle.loads(Path(file).read_bytes())
        print(json.dumps(uvloop.run(drive(int(port), requests, float(seconds)))))
        return
    packages = versions(
        "vectoll", "starlette", "uvicorn", "uvloop", "msgspec", "orjson", "isal", "btclib-libsecp256k1"
    )
    with recording("gateway", packages, options.out) as result:
        result["rates"] = measure_rates(options.seconds, options.rounds)
    print(json.dumps(result["rates"], indent=1))


if __name__ == "__main__":
    main()
