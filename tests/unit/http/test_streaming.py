"""Answers that are made while they are sent: the same bytes, in pieces, for whoever is still there to read them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import structlog
from starlette.types import Message, Scope
from tests.fakes import SPEC, FakeServer, limited
from tests.unit.http.conftest import SPEC_URL, Client

from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import EncodingFormat
from vectoll.domain.ids import AccountId, ModelId
from vectoll.http import serialisation
from vectoll.http.routes import embeddings
from vectoll.http.serialisation import NUMBERS_AT_ONCE, PIECE_BYTES, STREAMED_BYTES
from vectoll.kernels.numbers import NUMBER_BYTES
from vectoll.settings import Settings

Connect = Callable[..., Client]
AT_ONCE_BYTES = NUMBERS_AT_ONCE * NUMBER_BYTES
WHOLE = STREAMED_BYTES // (4 * SPEC.dims)
"""The most vectors in one answer that is not streamed."""
TEXTS = [f"text {'x' * (n % 60 + 1)}" for n in range(600)]
FORMATS = pytest.mark.parametrize("encoding_format", ["float", "base64"])
CODINGS = pytest.mark.parametrize("coding", ["identity", "gzip", "br"])


async def ask(client: Client, coding: str, encoding_format: str = "float") -> Any:
    body = {"model": "fake-model", "input": TEXTS, "encoding_format": encoding_format}
    return await client.post(SPEC_URL, json=body, headers={"accept-encoding": coding})


@FORMATS
@CODINGS
async def test_streamed_answer_is_the_whole_one(
    client: Client, monkeypatch: pytest.MonkeyPatch, coding: str, encoding_format: str
) -> None:
    streamed = await ask(client, coding, encoding_format)
    monkeypatch.setattr(embeddings, "STREAMED_BYTES", 10**9)
    whole = await ask(client, coding, encoding_format)
    assert "content-length" in whole.headers
    assert streamed.content == whole.content
    assert streamed.json()["data"][-1]["index"] == 599
    for header in ("content-type", "content-encoding", "vary", "cache-control", "x-content-type-options"):
        assert streamed.headers.get(header) == whole.headers.get(header)
    assert set(whole.headers) - set(streamed.headers) == {"content-length"}
    assert streamed.headers.get("content-encoding", "identity") == coding


async def test_only_large_answers_are_streamed(client: Client) -> None:
    assert "content-length" in (await client.embed(["x"] * WHOLE)).headers
    assert "content-length" not in (await client.embed(["x"] * (WHOLE + 1))).headers


async def test_stages_are_measured(client: Client, server: FakeServer) -> None:
    await ask(client, "gzip")
    text = server.metrics.render().decode()
    for stage in ("serialise", "compress"):
        labels = f'{{model="fake-model",stage="{stage}"}}'
        assert f"vectoll_stage_seconds_count{labels} 1.0" in text
        assert f"vectoll_stage_seconds_sum{labels} 0.0\n" not in text


async def test_the_least_size_to_compress_holds_for_streams(connect: Connect) -> None:
    server = FakeServer(settings=Settings(compression_min_bytes=10**8))
    response = await ask(connect(server, await server.open()), "gzip")
    assert "content-encoding" not in response.headers


class Connection:
    """A client on the ASGI level that takes each message when it likes, and can hang up."""

    def __init__(self, key: str, http_version: str = "1.1", coding: str = "identity") -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.reads = asyncio.Semaphore(0)
        self.has_left = asyncio.Event()
        self._body: bytes | None = json.dumps({"model": "fake-model", "input": TEXTS}).encode()
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {key}",
            "accept-encoding": coding,
        }
        self.scope: Scope = {
            "type": "http",
            "http_version": http_version,
            "method": "POST",
            "path": SPEC_URL,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("10.0.0.1", 1),
        }

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Like a server's: comes back when there is room for more."""
        self.sent.put_nowait(message)
        await self.reads.acquire()

    async def read(self) -> Message:
        self.reads.release()
        return await self.sent.get()


@asynccontextmanager
async def running(server: FakeServer, connection: Connection) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(server.app(connection.scope, connection.receive, connection.send))
    async with asyncio.timeout(10):
        yield task
        await task
    await asyncio.sleep(0)  # what was cancelled ends
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pieces that have been made."""
    sizes: list[int] = []

    def counted(result: EmbedResult, encoding_format: EncodingFormat) -> Iterator[bytes]:
        for piece in serialisation.stream_embeddings(result, encoding_format):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(embeddings, "stream_embeddings", counted)
    return sizes


@CODINGS
async def test_pieces_are_made_as_they_are_read(server: FakeServer, made: list[int], coding: str) -> None:
    connection = Connection(await server.open(), coding=coding)
    async with running(server, connection):
        assert (await connection.read())["type"] == "http.response.start"
        taken, is_last = 0, False
        while not is_last:
            message = await connection.read()
            taken, is_last = taken + 1, not message["more_body"]
            assert len(message["body"]) < PIECE_BYTES + AT_ONCE_BYTES
            if coding == "identity":
                assert len(made) <= taken + 1
    assert len(made) > 15
    assert max(made) < PIECE_BYTES + AT_ONCE_BYTES


async def test_http_1_0_cannot_tell_where_a_stream_ends(server: FakeServer) -> None:
    connection = Connection(await server.open(), "1.0")
    async with running(server, connection):
        start, body = await connection.read(), await connection.read()
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]
    assert not body.get("more_body")


async def test_client_that_leaves_midway_has_paid(
    server: FakeServer, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectoll.http.disconnect.WATCH_AFTER_S", 0)
    connection = Connection(await server.open())
    before = await server.store.ledger.balance(AccountId("acct_1"))
    with structlog.testing.capture_logs() as lines:
        async with running(server, connection):
            assert (await connection.read())["status"] == 200
            assert (await connection.read())["more_body"]
            connection.has_left.set()
    after = await server.store.ledger.balance(AccountId("acct_1"))
    assert after.balance < before.balance
    assert after.held == before.held == 0
    [line] = lines
    assert (line["status"], line["tokens"]) == (499, 600 * 4)
    assert not server.services.admission._in_flight
    assert len(made) < 5
    assert b'stage="serialise"' in server.metrics.render()


async def test_a_stream_is_in_flight_until_it_is_sent(connect: Connect) -> None:
    server = FakeServer(settings=limited(requests_in_flight=1))
    key = await server.open()
    client, connection = connect(server, key), Connection(key)
    async with running(server, connection):
        assert (await connection.read())["status"] == 200
        refused = await client.embed()
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        while (await connection.read()).get("more_body"):
            pass
    assert (await client.embed()).status_code == 200


async def test_an_answer_that_is_never_sent_is_not_in_flight(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.app._compression, "apply", AsyncMock(side_effect=ZeroDivisionError))
    connection = Connection(await server.open())
    with pytest.raises(ZeroDivisionError):
        await server.app(connection.scope, connection.receive, connection.send)
    assert not server.services.admission._in_flight


async def test_a_stream_that_is_cut_by_the_server_stays_cancelled(server: FakeServer) -> None:
    connection = Connection(await server.open())
    task = asyncio.create_task(server.app(connection.scope, connection.receive, connection.send))
    await connection.read()
    await connection.read()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_wide_vectors_stream_whatever_their_number(connect: Connect) -> None:
    wide = replace(SPEC, id=ModelId("wide"), dims=STREAMED_BYTES // 4 + 1, aliases=(), matryoshka_dims=())
    server = FakeServer(wide)
    client = connect(server, await server.open())
    response = await client.post(SPEC_URL, json={"model": "wide", "input": "x"})
    assert "content-length" not in response.headers
    assert len(response.json()["data"][0]["embedding"]) == wide.dims
