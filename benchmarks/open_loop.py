"""Load at a given rate, whatever the server does: at random (a Poisson process) or evenly. Run as a process of its own.

    python benchmarks/open_loop.py --url http://127.0.0.1:8787/v1 --key KEY --rate 500 --bodies FILE --seconds 10

A request is timed from when it should have been sent, so a server that stalls is not spared by a client that waits for
it. It goes out on any idle connection, and a new one is opened when there is none. Prints one JSON object.

Where the system allows it, this process never waits for a core, as on a machine of its own: what is measured are the
server's waits, not its client's. The time that it takes is still the server's loss.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, cycle, repeat
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import Answers, Tally, _request, _summary

TICK_S = 0.001
"""What a timer of uvloop's can tell apart. For less it comes at once, and waiting would take a core."""


class Pace:
    """Sends requests when they are due, and knows when the last of them is answered."""

    def __init__(
        self, requests: Sequence[bytes], gaps: Iterator[float], seconds: float, tally: Tally
    ) -> None:
        self.idle: list[Line] = []
        self.lines = 0
        self.tally = tally
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._requests = cycle(requests)
        self._gaps = gaps
        self._due = time.perf_counter() + next(gaps)
        self._end = self._due + seconds
        self._in_flight = 0
        self._opening: set[asyncio.Task[None]] = set()

    def tick(self, host: str, port: int) -> None:
        """Send what is due, and come back when the next is."""
        now = time.perf_counter()
        while self._due <= min(now, self._end):
            self._in_flight += 1
            if self.idle:
                self.idle.pop().send(next(self._requests), self._due)
            else:
                opening = self._loop.create_task(self._open(host, port, next(self._requests), self._due))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
            self._due += next(self._gaps)
        if self._due <= self._end:
            self._loop.call_later(max(TICK_S, self._due - now), self.tick, host, port)

    async def _open(self, host: str, port: int, request: bytes, due: float) -> None:
        self.lines += 1
        try:
            _, line = await self._loop.create_connection(partial(Line, self), host, port)
        except OSError as error:
            self.fail(error)
        else:
            line.send(request, due)

    def answered(self, line: "Line", seconds: float) -> None:
        """One more is."""
        self.tally.seconds.append(seconds)
        self.idle.append(line)
        self._in_flight -= 1
        if self._due > self._end and not self._in_flight and not self.finished.done():
            self.finished.set_result(None)

    def ended(self, line: "Line", error: Exception | None) -> None:
        """A server may close a connection that nothing was sent on for a while, but no other."""
        if line in self.idle:
            self.idle.remove(line)
        else:
            self.fail(error or ConnectionError("closed before the answer"))

    def fail(self, error: Exception) -> None:
        """The server is gone, or has refused a connection."""
        if not self.finished.done():
            self.finished.set_exception(error)


class Line(Answers):
    """One connection with at most one request on it."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(pace.tally)
        self._pace = pace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pace.ended(self, exc)

    def send(self, request: bytes, due: float) -> None:
        """A request that should have gone out at ``due``."""
        self._due = due
        self._transport.write(request)

    def answered(self) -> None:
        self._pace.answered(self, time.perf_counter() - self._due)


async def run(
    url: str, key: str, bodies: Sequence[bytes], rate: float, seconds: float, arrivals: str
) -> dict[str, object]:
    """Requests for ``seconds``, then what is in flight finishes."""
    parts = urlsplit(url)
    requests = [_request(parts.netloc, parts.path + "/embeddings", key, body, "") for body in bodies]
    tally, rng = Tally(), random.Random(5)
    gaps = (rng.expovariate(rate) for _ in count()) if arrivals == "random" else repeat(1 / rate)
    started = time.perf_counter()
    pace = Pace(requests, gaps, seconds, tally)
    pace.tick(parts.hostname or "127.0.0.1", parts.port or 80)
    await pace.finished
    return _summary(tally, time.perf_counter() - started) | {"rate": rate, "connections": pace.lines}


def go_first() -> bool:
    """Be run as soon as there is something to do, before whatever is no real-time process. False where it may not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


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
    goes_first = go_first()
    summary = uvloop.run(run(options.url, options.key, bodies, *how))
    print(json.dumps(summary | {"goes_first": goes_first}))


if __name__ == "__main__":
    main()
