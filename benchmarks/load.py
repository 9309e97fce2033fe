"""A closed-loop HTTP/1.1 load generator that costs little CPU, run as a process of its own.

    python benchmarks/load.py --url http://127.0.0.1:8787/v1 --key KEY --connections 64 --seconds 10

Every connection sends its next request when the last is answered. Bodies are prepared before the clock starts; of an
answer only its status and length are read. Prints one JSON object.
"""

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import uvloop


@dataclass
class Tally:
    """What all connections saw."""

    deadline: float = 0.0
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bytes_received: int = 0


_ROOM = bytearray(256 * 1024)
"""Every connection reads into this: only one reads at a time, and nothing but a head is kept."""


class Answers(asyncio.BufferedProtocol):
    """Reads answers with a Content-Length: keeps the status and counts the bytes."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._head = b""
        """As far as it is here, until all of it is."""
        self._left = 0
        """Bytes of the body that are still to come."""

    def get_buffer(self, _size_hint: int) -> bytearray:
        return _ROOM

    def buffer_updated(self, size: int) -> None:
        self._tally.bytes_received += size
        if not self._left:
            before = len(self._head)
            here = self._head + _ROOM[:size] if before else _ROOM  # not copied where all of the head is there
            end = here.find(b"\r\n\r\n", 0, before + size) + 4
            if end < 4:
                self._head = bytes(here[: before + size])
                return
            head = bytes(here[:end])
            self._tally.statuses[int(head[9:12])] += 1
            at = head.lower().index(b"content-length:") + 15
            self._left = end - before + int(head[at:].split(b"\r\n", 1)[0])
            self._head = b""
        self._left -= size
        if not self._left:
            self.answered()

    def answered(self) -> None:
        """The whole answer is here."""
        raise NotImplementedError


class Connection(Answers):
    """One keep-alive connection in a closed loop."""

    def __init__(
        self, requests: Sequence[bytes], start: int, tally: Tally, done: asyncio.Future[None]
    ) -> None:
        super().__init__(tally)
        self._requests = cycle([*requests[start:], *requests[:start]])
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def answered(self) -> None:
        now = time.perf_counter()
        self._tally.seconds.append(now - self._sent)
        if now < self._tally.deadline:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def run(
    url: str, key: str, bodies: Sequence[bytes], connections: int, seconds: float, accept_encoding: str = ""
) -> dict[str, object]:
    """Load for ``seconds``, then let what is in flight finish."""
    parts = urlsplit(url)
    requests = [
        _request(parts.netloc, parts.path + "/embeddings", key, body, accept_encoding) for body in bodies
    ]
    tally = Tally(deadline=time.perf_counter() + seconds)
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    for number, done in enumerate(futures):
        await loop.create_connection(
            partial(Connection, requests, number * 7 % len(requests), tally, done),
            parts.hostname or "127.0.0.1",
            parts.port or 80,
        )
    await asyncio.gather(*futures)
    elapsed = time.perf_counter() - started
    return _summary(tally, elapsed)


def _request(host: str, path: str, key: str, body: bytes, accept_encoding: str) -> bytes:
    encoding = f"accept-encoding: {accept_encoding}\r\n" if accept_encoding else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n{encoding}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _summary(tally: Tally, elapsed: float) -> dict[str, object]:
    times = sorted(tally.seconds)
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "requests": len(times),
        "requests_per_s": len(times) / elapsed,
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[min(len(times) - 1, int(len(times) * 0.99))] * 1000,
        "statuses": dict(tally.statuses),
        "bytes_per_s": tally.bytes_received / elapsed,
        "generator_cpu": (cpu.ru_utime + cpu.ru_stime) / elapsed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8787/v1", help="base URL, without /embeddings")
    parser.add_argument("--key", required=True)
    parser.add_argument("--bodies", help="file with one JSON request body per line (default: one short text)")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--accept-encoding", default="")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each connection is an open file
    bodies = [json.dumps({"model": "all-MiniLM-L6-v2", "input": "What is an embedding?"}).encode()]
    if args.bodies:
        with open(args.bodies, "rb") as lines:  # noqa: PTH123 - one plain read
            bodies = [line.rstrip(b"\n") for line in lines if line.strip()]
    summary = uvloop.run(
        run(args.url, args.key, bodies, args.connections, args.seconds, args.accept_encoding)
    )
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
