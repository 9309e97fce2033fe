"""What clients do to their connections, on real sockets and the loop that serves them."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, cast
from unittest.mock import Mock

import pytest
import uvloop
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tests.fakes import FakeServer
from uvicorn import Config
from uvicorn.server import ServerState

from vectoll.domain.ids import AccountId
from vectoll.domain.money import usd
from vectoll.http.disconnect import WATCH_AFTER_S
from vectoll.server.connection import (
    BODY_TIMEOUT_S,
    HEAD_TIMEOUT_S,
    LINGER_S,
    WHOLE_BODY_S,
    Connection,
)

WAIT_S = 10
DRAIN = "vectoll.server.reading.DRAIN_BYTES"
P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test on the loop that serves."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await Response(body)(scope, receive, send)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection of a client that sends bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_for_ever(self, data: bytes) -> None:
        """Again and again, until the server has had enough."""
        while True:
            self.send(data)
            await self.writer.drain()

    def reset(self) -> None:
        """Leave in a way that shows at once."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def answer(self) -> Answer:
        """The next one, which has a content-length."""
        async with asyncio.timeout(WAIT_S):
            status_line, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            return Answer(int(status_line.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether nothing more comes: the server closes, or has sent nothing for ten seconds."""
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read(1) == b""


@dataclass
class Serving:
    """A server of Connections."""

    port: int
    state: ServerState

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with closing(writer):
            yield Client(reader, writer)

    async def answer(self, data: bytes) -> Answer:
        """The first answer to these bytes."""
        async with self.client() as client:
            client.send(data)
            return await client.answer()

    async def until(self, is_so: Callable[[Connection], object]) -> Connection:
        """The only connection, once this is true of it."""
        async with asyncio.timeout(WAIT_S):
            while not (self.state.connections and is_so(self.connection)):  # noqa: ASYNC110 - the other end has no event
                await asyncio.sleep(0.001)
        return self.connection

    async def until_gone(self) -> None:
        """No connection, and nobody who works for one."""
        async with asyncio.timeout(WAIT_S):
            while self.state.connections or self.state.tasks:  # noqa: ASYNC110 - the other end has no event
                await asyncio.sleep(0.001)

    @property
    def connection(self) -> Connection:
        [connection] = self.state.connections
        return cast(Connection, connection)


@asynccontextmanager
async def serving(app: Any = echo, **options: int) -> AsyncIterator[Serving]:
    config = Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=75,
    )
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, **options), "127.0.0.1", 0
    )
    with closing(server):
        yield Serving(server.sockets[0].getsockname()[1], state)
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
        (("192.0.2.1", 5), "192.0.2.1"),
    ],
)
async def test_a_client_that_speaks_ipv4_has_an_ipv4_address(peer: tuple[Any, ...], client: str) -> None:
    """Also where one socket serves both; proxies are believed by their address."""
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.side_effect = {"socket": Mock(**{"getpeername.return_value": peer})}.get
    connection = Connection(Config(echo, lifespan="off", log_config=None), ServerState(), {})
    connection.connection_made(transport)
    assert connection.client == (client, 5)


BROKEN = b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n"


@on_uvloop
async def test_what_is_no_request_is_refused_in_the_shape_of_errors_and_has_an_id() -> None:
    async with serving() as server, server.client() as client:
        client.send(BROKEN)
        refused = await client.answer()
        assert refused.status == 400
        assert refused.headers["content-type"] == "application/json"
        assert refused.headers["connection"] == "close"
        assert refused.headers["x-request-id"].startswith("req_")
        assert refused.json["code"] == "INVALID_REQUEST"
        assert refused.json["error"].startswith("This is no valid HTTP request: Invalid header token")
        assert await client.is_closed()


@on_uvloop
async def test_one_connection_too_many_is_answered_and_closed_and_those_that_are_there_are_served() -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    async with serving(most_connections=2) as server, server.client() as first:
        async with server.client() as second:
            second.send(request)
            assert (await second.answer()).body == b"hi"
            async with server.client() as third:
                refused = await third.answer()
                assert (refused.status, refused.json["error"]["code"]) == (503, "service_unavailable")
                assert refused.headers["retry-after"] == "1"
                assert await third.is_closed()
        first.send(request)
        assert (await first.answer()).body == b"hi"
        async with asyncio.timeout(WAIT_S):
            while len(server.state.connections) > 1:  # noqa: ASYNC110 - the other end has no event
                await asyncio.sleep(0.001)
        assert (await server.answer(request)).body == b"hi"


@on_uvloop
async def test_the_shape_is_openais_below_its_base_path() -> None:
    async with serving() as server:
        refused = await server.answer(BROKEN.replace(b"/api/v1", b"/v1"))
    assert refused.json["error"]["type"] == "invalid_request_error"


@on_uvloop
async def test_the_id_is_the_clients_where_it_was_read() -> None:
    async with serving() as server:
        refused = await server.answer(BROKEN.replace(b"Host", b"X-Request-Id: mine\r\nHost"))
    assert refused.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n"])
@on_uvloop
async def test_whatever_is_sent_is_answered(sent: bytes) -> None:
    async with serving() as server:
        assert (await server.answer(sent)).status == 400


async def refuse_all(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the body is here."""
    await Response(b"no", 401)(scope, receive, send)


LARGE = b"x" * 5_000_000
CLOSING = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5000000\r\n\r\n" + LARGE
OLD = b"POST / HTTP/1.0\r\nContent-Length: 5000000\r\n\r\n" + LARGE
CHUNKED = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n4c4b40\r\n" + LARGE + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"), [(CLOSING, 401), (OLD, 401), (CHUNKED, 401), (BROKEN + LARGE, 400)]
)
def test_an_answer_reaches_a_client_that_reads_it_only_once_all_is_sent(sent: bytes, status: int) -> None:
    async def main() -> bytes:
        async with serving(refuse_all) as server:
            return await asyncio.to_thread(send_all_then_read, server.port, sent)

    assert uvloop.run(main()).startswith(b"HTTP/1.1 %d " % status)


def send_all_then_read(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


@on_uvloop
async def test_who_goes_on_sending_after_the_last_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DRAIN, 1_000_000)
    async with serving(refuse_all) as server, server.client() as client:
        client.send(CLOSING)
        assert (await client.answer()).status == 401
        with pytest.raises(ConnectionError):
            await client.send_for_ever(LARGE)


HEAD = b"POST /v1/x HTTP/1.1\r\nHost: x\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MUCH = 200_000


@pytest.mark.parametrize(
    ("begun", "repeated", "status"),
    [
        (HEAD + b"X: ", b"a", 431),
        (HEAD, b"a", 431),
        (HEAD, b"a: b\r\n", 431),
        (HEAD + b"a: b\r\n", b" folded\r\n", 400),
        (b"GET /", b"a", 414),
        (b"GET /?", b"a", 414),
        (b"", b"\r\n", 431),
        (CHUNKS + b"5;", b"a", 400),
        (CHUNKS + b"5\r\nhello\r\n5;", b"a", 400),
        (CHUNKS + b"0\r\nX: ", b"a", 400),
        (CHUNKS + b"0\r\n", b"a: b\r\n", 400),
    ],
)
@on_uvloop
async def test_what_is_not_a_body_has_an_end(begun: bytes, repeated: bytes, status: int) -> None:
    async with serving() as server, server.client() as client:
        client.send(begun + repeated * (MUCH // len(repeated)))
        if begun.count(HEAD) == 2:
            assert (await client.answer()).status == 200
        refused = await client.answer()
        assert refused.status == status
        assert refused.json["error"]
        client.send(LARGE)  # and nothing comes of it
        assert await client.is_closed()


@pytest.mark.parametrize("nonsense", [BROKEN, CHUNKS + b"nonsense", HEAD + b"X: " + LARGE])
@on_uvloop
async def test_what_came_before_nonsense_is_answered(nonsense: bytes) -> None:
    whole = HEAD + b"Content-Length: 1\r\n\r\n%d"
    async with serving() as server, server.client() as client:
        client.send(whole % 1 + whole % 2 + nonsense)
        answers = [await client.answer() for _ in range(2)]
        assert [answer.body for answer in answers] == [b"1", b"2"]
        assert answers[1].headers["connection"] == "close"
        assert await client.is_closed()


@on_uvloop
async def test_a_head_may_have_60_kib_whatever_it_comes_in() -> None:
    head = HEAD + b"Content-Length: 5\r\nX: " + b"a" * 60_000 + b"\r\n\r\n"
    async with serving() as server, server.client() as client:
        for piece in (head + b"hel", b"lo" + head[:40_000], head[40_000:] + b"hello"):
            client.send(piece)
            await asyncio.sleep(0.02)
        assert [(await client.answer()).body for _ in range(2)] == [b"hello", b"hello"]


@on_uvloop
async def test_a_body_in_many_small_chunks_is_read() -> None:
    async with serving() as server:
        answer = await server.answer(CHUNKS + b"1;a=b\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
    assert answer.body == b"x" * 50_000


@on_uvloop
async def test_trailers_do_not_become_headers() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        seen.extend(scope["headers"])

    async with serving(app) as server:
        await server.answer(CHUNKS + b"0\r\nX: y\r\n\r\n")
    assert seen == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


@on_uvloop
async def test_a_body_that_is_refused_in_the_middle_is_not_served() -> None:
    read: list[Any] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        while not read or read[-1] != "http.disconnect":
            read.append((await receive())["type"])

    async with serving(app) as server:
        assert (await server.answer(CHUNKS + b"5\r\nhello\r\nnonsense")).status == 400
        await asyncio.gather(*server.state.tasks)
    assert read[-1] == "http.disconnect"


@on_uvloop
async def test_a_body_that_was_answered_early_has_an_end_although_the_connection_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DRAIN, 10_000_000)
    head = HEAD + b"Content-Length: %d\r\n\r\n"
    async with serving(refuse_all) as server, server.client() as client:
        client.send(head % len(LARGE) + LARGE + head % 100_000_000)
        assert [(await client.answer()).status for _ in range(2)] == [401, 401]
        with pytest.raises(ConnectionError):
            await client.send_for_ever(LARGE)


@pytest.mark.parametrize("sent", [b"GET /", HEAD, HEAD + b"X: y\r\n"])
@on_uvloop
async def test_a_head_must_come_in_time(sent: bytes) -> None:
    async with serving() as server, server.client() as client:
        client.send(sent)
        connection = await server.until(lambda connection: connection.unframed == len(sent))
        connection.pass_time(HEAD_TIMEOUT_S - 1)
        client.send(b"A")
        await server.until(lambda connection: connection.unframed > len(sent))
        connection.pass_time(1)
        refused = await client.answer()
        assert refused.status == 408
        assert await client.is_closed()


@on_uvloop
async def test_who_sends_nothing_is_sent_nothing() -> None:
    async with serving() as server, server.client() as client:
        (await server.until(bool)).pass_time(HEAD_TIMEOUT_S)
        assert await client.is_closed()


@on_uvloop
async def test_a_body_must_go_on_in_time() -> None:
    async with serving() as server, server.client() as client:
        client.send(HEAD + b"Content-Length: 10\r\n\r\n")
        connection = await server.until(lambda connection: connection.tasks)
        for _ in range(5):
            connection.pass_time(BODY_TIMEOUT_S - 1)
            client.send(b"x")
            await server.until(lambda connection: connection.waited_s == 0)
        connection.pass_time(BODY_TIMEOUT_S)
        assert (await client.answer()).status == 408
        await asyncio.gather(*server.state.tasks)  # which have been told
        assert await client.is_closed()
        client.send(b"x" * 10)
        connection.pass_time(LINGER_S)
        await server.until_gone()


@on_uvloop
async def test_a_body_that_goes_on_a_byte_at_a_time_comes_to_an_end() -> None:
    """It may hold 32 MiB that others are refused for, and cost its sender a byte a minute."""
    async with serving() as server, server.client() as client:
        client.send(HEAD + b"Content-Length: 1000\r\n\r\n")
        connection = await server.until(lambda connection: connection.tasks)
        for _ in range(int(WHOLE_BODY_S / BODY_TIMEOUT_S)):
            client.send(b"x")
            await server.until(lambda connection: connection.waited_s == 0)
            connection.pass_time(BODY_TIMEOUT_S - 1)
        client.send(b"x")
        await server.until(lambda connection: connection.waited_s == 0)
        connection.pass_time(WHOLE_BODY_S / BODY_TIMEOUT_S)
        refused = await client.answer()
        assert refused.status == 408
        assert b"did not come to its end within 600 seconds" in refused.body
        await asyncio.gather(*server.state.tasks)


@on_uvloop
async def test_each_body_of_a_connection_has_its_own_time() -> None:
    async with serving() as server, server.client() as client:
        for _ in range(3):
            client.send(HEAD + b"Content-Length: 2\r\n\r\n")
            connection = await server.until(lambda connection: connection.tasks)
            for _ in range(8):
                connection.pass_time(BODY_TIMEOUT_S - 1)
                connection.waited_s = 0.0
            client.send(b"xx")
            assert (await client.answer()).body == b"xx"


@on_uvloop
async def test_a_client_that_waits_for_its_answer_has_time() -> None:
    answered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answered.wait()
        await echo(scope, receive, send)

    async with serving(app) as server, server.client() as client:
        client.send(HEAD + b"\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx")
        connection = await server.until(lambda connection: connection.pipeline)
        connection.pass_time(3600)
        answered.set()
        assert [(await client.answer()).body for _ in range(2)] == [b"", b"x"]
        connection.pass_time(connection.timeout_keep_alive - 1)
        client.send(HEAD + b"\r\n")
        assert (await client.answer()).status == 200
        connection.pass_time(connection.timeout_keep_alive)
        assert await client.is_closed()


@on_uvloop
async def test_what_is_sent_after_an_early_answer_must_end_in_time() -> None:
    for head in (HEAD, HEAD + b"Connection: close\r\n"):
        async with serving(refuse_all) as server, server.client() as client:
            client.send(head + b"Content-Length: 10\r\n\r\n")
            assert (await client.answer()).status == 401
            connection = server.connection
            connection.pass_time(LINGER_S - 1)
            client.send(b"x")
            await asyncio.sleep(0.02)
            connection.pass_time(1)
            assert await client.is_closed()


@on_uvloop
async def test_a_body_that_ends_after_an_early_answer_leaves_the_connection_as_it_was() -> None:
    async with serving(refuse_all) as server, server.client() as client:
        client.send(HEAD + b"Content-Length: 2\r\n\r\n")
        assert (await client.answer()).status == 401
        client.send(b"xx")
        connection = await server.until(lambda connection: not connection.cycle.more_body)
        connection.pass_time(LINGER_S)
        client.send(HEAD + b"\r\n")
        assert (await client.answer()).status == 401


@on_uvloop
async def test_an_answer_must_be_taken_in_time() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while server.state.connections:
            await send({"type": "http.response.body", "body": LARGE, "more_body": True})

    async with serving(app) as server, server.client() as client:
        client.send(HEAD + b"\r\n")
        connection = await server.until(lambda connection: connection.flow.write_paused)
        tasks = list(server.state.tasks)
        connection.pass_time(LINGER_S)
        connection.pass_time(BODY_TIMEOUT_S)
        await asyncio.gather(*tasks)


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
SIZED = b"Content-Length: 5\r\n\r\nhello"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("body", [SIZED, IN_CHUNKS])
@pytest.mark.parametrize("offer", [H2C, WEBSOCKET])
@pytest.mark.parametrize("step", [1, 50, 1000])
@on_uvloop
async def test_a_request_that_offers_another_protocol_is_an_ordinary_one(
    offer: bytes, body: bytes, step: int
) -> None:
    sent = (HEAD + offer + body) * 2 + HEAD + b"\r\n" + HEAD + body
    async with serving() as server, server.client() as client:
        for begin in range(0, len(sent), step):
            client.send(sent[begin : begin + step])
            await asyncio.sleep(0)
        answers = [await client.answer() for _ in range(4)]
    assert [(answer.status, answer.body) for answer in answers] == [
        (200, b"hello"),
        (200, b"hello"),
        (200, b""),
        (200, b"hello"),
    ]


@on_uvloop
async def test_what_is_wrong_with_a_request_that_offers_another_protocol_is_refused() -> None:
    async with serving() as server:
        assert (await server.answer(HEAD.replace(b"/v1/x", b"http://[") + H2C + SIZED)).status == 400
        assert (await server.answer(HEAD + H2C + b"Transfer-Encoding: chunked\r\n\r\nnonsense")).status == 400


@on_uvloop
async def test_connect_is_refused() -> None:
    async with serving() as server:
        refused = await server.answer(
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nhello"
        )
    assert refused.status == 501


PRICE = 3 * 12_500
"""Of ``embedding``."""


def embedding(key: str, version: bytes = b"1.1") -> bytes:
    body = b'{"model":"fake-model","input":"hello"}'
    head = b"POST /v1/embeddings HTTP/%b\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % (version, key.encode())
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def spent(fake: FakeServer) -> int:
    """Since the account was opened, and nothing is held."""
    balance = await fake.store.ledger.balance(AccountId("acct_1"))
    assert balance.held == 0
    return usd("5") - balance.balance


@asynccontextmanager
async def working() -> AsyncIterator[tuple[FakeServer, bytes, Serving, Client]]:
    """A client whose request the model works on, until the gate opens, and how to ask for another."""
    fake = FakeServer()
    fake.model.gate = asyncio.Event()
    async with serving(fake.app) as server, server.client() as client:
        yield fake, embedding(await fake.open()), server, client


@pytest.mark.parametrize("requests", [1, 2, 3])
@on_uvloop
async def test_who_half_closes_gets_all_answers(requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectoll.server.connection.WATCH_AFTER_S", 3600)
    async with working() as (fake, request, _, client):
        client.send(request * requests)
        client.writer.write_eof()
        await fake.model.started.wait()
        assert fake.model.gate is not None
        fake.model.gate.set()
        answers = [await client.answer() for _ in range(requests)]
        assert [answer.status for answer in answers] == [200] * requests
        assert answers[-1].headers["connection"] == "close"
        assert await client.is_closed()
        assert await spent(fake) == requests * PRICE


@on_uvloop
async def test_who_half_closes_is_asked_whether_they_are_there_before_a_late_answer() -> None:
    async with working() as (fake, request, server, client):
        client.send(request)
        client.writer.write_eof()
        assert (await client.answer()).status == 100
        await asyncio.sleep(2 * WATCH_AFTER_S)
        assert fake.model.gate is not None
        fake.model.gate.set()
        assert (await client.answer()).status == 200
        assert await client.is_closed()
    assert not server.state.connections


@pytest.mark.parametrize("requests", [1, 2, 3])
@pytest.mark.parametrize("reset", [True, False])
@on_uvloop
async def test_who_leaves_is_not_charged(
    reset: bool, requests: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectoll.http.disconnect.WATCH_AFTER_S", 3600)  # nobody has to look
    async with working() as (fake, request, server, client):
        client.send(request * requests)
        await fake.model.started.wait()
        if reset:
            client.reset()
        else:
            client.writer.close()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*server.state.tasks)
        assert (fake.model.cancelled, fake.model.embedded) == (1, 0)
        assert await spent(fake) == 0
    assert not [record for record in caplog.records if record.exc_info]


@on_uvloop
async def test_who_leaves_between_two_answers_pays_for_the_first(caplog: pytest.LogCaptureFixture) -> None:
    async with working() as (fake, request, server, client):
        gate = fake.model.gate
        assert gate is not None
        client.send(request * 3)
        await fake.model.started.wait()
        gate.set()
        await client.answer()
        gate.clear()
        client.reset()
        await server.until_gone()
        assert await spent(fake) <= 2 * PRICE
    assert not [record for record in caplog.records if record.exc_info]


@on_uvloop
async def test_a_client_of_http_1_0_that_half_closes_is_served_while_that_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vectoll.server.connection.WATCH_AFTER_S", 1)
    async with working() as (fake, _, server, client):
        request = embedding(await fake.key(), b"1.0")
        gate = fake.model.gate
        assert gate is not None
        gate.set()
        client.send(request)
        client.writer.write_eof()
        assert (await client.answer()).status == 200
        gate.clear()
        async with server.client() as other:
            other.send(request)
            other.writer.write_eof()
            assert await other.is_closed()
        assert await spent(fake) == PRICE


@on_uvloop
async def test_who_half_closes_in_the_middle_of_a_request_has_what_came_before_it_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vectoll.server.connection.WATCH_AFTER_S", 3600)
    async with working() as (fake, request, server, client):
        assert fake.model.gate is not None
        fake.model.gate.set()
        client.send(request + request[:-1])
        client.writer.write_eof()
        assert (await client.answer()).status == 200
        assert await client.is_closed()
        async with server.client() as other:
            other.send(request[:-1])
            other.writer.write_eof()
            assert await other.is_closed()
        assert await spent(fake) == PRICE


@on_uvloop
async def test_nonsense_behind_a_request_that_takes_its_time_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DRAIN, 1_000_000)
    async with working() as (fake, request, server, client):
        client.send(request + b"nonsense")
        await fake.model.started.wait()
        with pytest.raises(ConnectionError):
            await client.send_for_ever(LARGE)
        await server.until_gone()
        assert await spent(fake) == 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GETS / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    ],
)
@on_uvloop
async def test_requests_are_what_rfc_9112_says(sent: bytes, status: int) -> None:
    async with serving() as server:
        assert (await server.answer(sent)).status == status


@on_uvloop
async def test_100_continue_is_for_who_knows_it() -> None:
    expecting = HEAD + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    async with serving() as server, server.client() as client, server.client() as old:
        client.send(expecting)
        old.send(expecting.replace(b"1.1", b"1.0"))
        assert (await client.answer()).status == 100
        await asyncio.sleep(0.02)
        for each in (client, old):
            each.send(b"hello")
            assert (await each.answer()).status == 200


@on_uvloop
async def test_a_request_that_is_refused_before_it_was_looked_at_is_not_told_to_continue() -> None:
    heard: list[str] = []

    async def hear(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])

    broken = HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
    async with serving(hear) as server, server.client() as client:
        client.send(broken)
        assert (await client.answer()).status == 400
        client.writer.close()
        await server.until_gone()
    assert heard == ["http.disconnect"]
