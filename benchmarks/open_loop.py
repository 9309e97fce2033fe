"""Load at a given rate, whatever the server does: at random (a Poisson process) or evenly. Run as a process of its own.

    python benchmarks/open_loop.py --url http://127.0.0.1:8787/v1 --key KEY --rate 500 --bodies FILE --seconds 10

A request is timed from when it should have been sent, so a server that stalls is not spared by a client that waits for
it. It goes out on any idle connection, and a new one is opened when there is none. Prints one JSON object.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import Answers, Tally, _request, _summary


class Line(Answers):
    """One connection with at most one request on it."""

    _whole: "asyncio.Future[None] | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._whole and not self._whole.done():
            self._whole.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes, due: float) -> None:
        """Send, and wait for the whole answer."""
        self._whole = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._whole
        self._tally.seconds.append(time.perf_counter() - due)

    def answered(self) -> None:
        if self._whole and not self._whole.done():
            self._whole.set_result(None)


async def run(
    url: str, key: str, bodies: Sequence[bytes], rate: float, seconds: float, arrivals: str
) -> dict[str, object]:
    """Requests for ``seconds``, then what is in flight finishes."""
    parts = urlsplit(url)
    requests = [_request(parts.netloc, parts.path + "/embeddings", key, body, "") for body in bodies]
    tally, rng = Tally(), random.Random(5)
    idle: list[Line] = []
    lines = 0
    loop = asyncio.get_running_loop()

    async def ask(request: bytes, due: float) -> None:
        nonlocal lines
        if idle:
            line = idle.pop()
        else:
            lines += 1
            _, line = await loop.create_connection(
                lambda: Line(tally), parts.hostname or "127.0.0.1", parts.port or 80
            )
        await line.ask(request, due)
        idle.append(line)

    started = time.perf_counter()
    due, tasks, number = started, set(), 0
    while due < started + seconds:
        due += rng.expovariate(rate) if arrivals == "random" else 1 / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.ensure_future(ask(requests[number % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    return _summary(tally, time.perf_counter() - started) | {"rate": rate, "connections": lines}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--bodies", type=Path, required=True, help="file with one JSON request body per line")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--arrivals", choices=["random", "even"], default="random")
    options = parser.parse_args()
    bodies = [line for line in options.bodies.read_bytes().split(b"\n") if line]
    how = (options.rate, options.seconds, options.arrivals)
    print(json.dumps(uvloop.run(run(options.url, options.key, bodies, *how))))


if __name__ == "__main__":
    main()
