"""What is served, on a real socket, with a fake model behind it."""

import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import uvicorn
import uvloop
from tests.fakes import FakeServer, limited

from vectoll.domain.identity import KeyKind
from vectoll.http.services import Services
from vectoll.ports.metrics import NoMetrics
from vectoll.server.serving import _uvicorn_config
from vectoll.settings import Settings


class Answers(NoMetrics):
    """Remembers which statuses each route has answered with."""

    def __init__(self) -> None:
        self.statuses: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._changed = threading.Condition()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        with self._changed:
            self.statuses[method, route].add(status)
            self._changed.notify_all()

    def seen(self, method: str, route: str, status: int) -> bool:
        """Whether this answer was given, or is within ten seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: status in self.statuses[method, route], timeout=10)


@dataclass(frozen=True)
class Live:
    url: str
    key: str
    answers: Answers


@contextmanager
def running(settings: Settings, services: Services, prepare: Callable[[], Awaitable[None]]) -> Iterator[str]:
    """The URL of what `vectoll serve` makes of these, once ``prepare`` was awaited in its loop."""
    config = _uvicorn_config(settings, services, 1000)
    config.port = 0
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        await prepare()
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        started.set()
        await server.main_loop()
        await server.shutdown()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert started.wait(timeout=10)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Without rate limits, so that every request is answered on its own merits."""
    answers = Answers()
    settings = limited(requests_per_minute=0, tokens_per_minute=0, failures_before_block=0)
    fake = FakeServer(settings=settings, metrics=answers)
    keys: list[str] = []

    async def prepare() -> None:
        await fake.open(dollars="1000")
        keys.append(await fake.key(kind=KeyKind.ADMIN))

    with running(settings, fake.services, prepare) as url:
        yield Live(url, keys[0], answers)
