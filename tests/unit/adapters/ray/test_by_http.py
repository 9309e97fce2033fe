"""The HTTP route, against a server that answers as it is told."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from vectoll.adapters.engines.ray import by_http
from vectoll.adapters.engines.ray.by_http import HttpRoute
from vectoll.adapters.engines.ray.frames import MEDIA_TYPE
from vectoll.adapters.engines.ray.routes import Full, NotServed, Unreachable
from vectoll.domain.ids import ModelId

MODEL = ModelId("m")
MAX_BYTES = 100


@dataclass
class Proxy:
    url: str = ""
    status: int = 200
    body: bytes = b"answer"
    content_type: str = MEDIA_TYPE
    asked: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        assert await request.read() == b"question"
        return web.Response(status=self.status, body=self.body, content_type=self.content_type)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    app = web.Application()
    app.router.add_route("*", "/vectoll-m", proxy.answer)
    async with TestServer(app) as server:
        proxy.url = str(server.make_url("/"))
        yield proxy


@pytest.fixture
async def route_to() -> AsyncIterator[Callable[..., HttpRoute]]:
    routes: list[HttpRoute] = []

    def make(*urls: str) -> HttpRoute:
        routes.append(HttpRoute(MODEL, urls, "secret", MAX_BYTES))
        return routes[-1]

    yield make
    for route in routes:
        await route.close()


async def test_frame_goes_out_with_the_secret_and_comes_back(
    proxy: Proxy, route_to: Callable[..., HttpRoute]
) -> None:
    assert await route_to(proxy.url).ask(b"question") == b"answer"
    headers = proxy.asked[0].headers
    assert (headers["authorization"], headers["content-type"]) == ("Bearer secret", MEDIA_TYPE)


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (401, NotServed),
        (404, NotServed),
        (503, Full),
        (500, Unreachable),
        (502, Unreachable),
        (302, Unreachable),
    ],
)
async def test_what_is_no_frame_is_the_proxys_own_answer(
    proxy: Proxy, route_to: Callable[..., HttpRoute], status: int, failure: type[Exception]
) -> None:
    proxy.status, proxy.content_type = status, "text/plain"
    with pytest.raises(failure):
        await route_to(proxy.url).ask(b"question")


@pytest.mark.parametrize("status", [401, 404])
async def test_cluster_that_does_not_serve_the_model_is_left_alone_while_another_does(
    proxy: Proxy, route_to: Callable[..., HttpRoute], status: int
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("*", "/vectoll-m", refuse)
    async with TestServer(app) as other:
        route = route_to(str(other.make_url("/")), proxy.url)
        assert await failures_of(route, NotServed) <= 1


async def failures_of(route: HttpRoute, failure: type[Exception]) -> int:
    """Of forty questions."""
    failures = 0
    for _ in range(40):
        try:
            await route.ask(b"question")
        except failure:
            failures += 1
    return failures


async def test_answer_that_is_too_long_is_not_read(proxy: Proxy, route_to: Callable[..., HttpRoute]) -> None:
    proxy.body = bytes(MAX_BYTES + 1)
    with pytest.raises(Unreachable, match="too long"):
        await route_to(proxy.url).ask(b"question")


async def test_proxy_that_is_gone_is_left_alone(proxy: Proxy, route_to: Callable[..., HttpRoute]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        route = route_to(f"http://127.0.0.1:{closed.getsockname()[1]}", proxy.url)
        assert await failures_of(route, Unreachable) <= 1
    assert len(proxy.asked) >= 39


async def test_proxy_that_was_gone_is_tried_one_question_at_a_time(
    proxy: Proxy, route_to: Callable[..., HttpRoute], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_http, "LEFT_ALONE_S", 0.0)
    questions, may_break = 0, asyncio.Event()

    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal questions
        questions += 1
        await may_break.wait()
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as broken:
        route = route_to(f"http://127.0.0.1:{broken.sockets[0].getsockname()[1]}", proxy.url)
        may_break.set()
        while not questions:
            with suppress(Unreachable):
                await route.ask(b"question")
        may_break.clear()
        asked = [asyncio.create_task(route.ask(b"question")) for _ in range(40)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in asked) < 39:
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
        assert questions <= 2
        may_break.set()
        await asyncio.wait(asked)
    assert [task.exception() for task in asked].count(None) >= 39
