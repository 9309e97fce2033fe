"""Answers on the wire, written by uvicorn's protocol and ours."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from vectoll.server.answering import WholeAnswers

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n"
BODY = b"0123456789"


class Wire(asyncio.Transport):
    """Keeps what is written, one piece for each write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(BODY, headers={"x-one": "1"})(scope, receive, send)


async def streamed(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": BODY, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def served(app: Any, sent: bytes) -> Wire:
    """The connection after a client has sent this and been answered."""
    wire = Wire()
    config = Config(app, http=WholeAnswers, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    protocol = WholeAnswers(config, ServerState(), {})
    protocol.connection_made(wire)
    protocol.data_received(sent)
    while protocol.tasks:
        await asyncio.gather(*protocol.tasks)
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return wire


async def test_a_whole_answer_is_one_piece() -> None:
    wire = await served(whole, REQUEST + b"\r\n")
    assert wire.pieces == [b"HTTP/1.1 200 OK\r\nx-one: 1\r\ncontent-length: 10\r\n\r\n" + BODY]


async def test_requests_that_come_at_once_are_answered_in_order() -> None:
    wire = await served(whole, (REQUEST + b"\r\n") * 3)
    assert len(wire.pieces) == 3


@pytest.mark.parametrize(
    ("app", "sent", "expected"),
    [
        (whole, REQUEST.replace(b"GET", b"HEAD") + b"\r\n", b"content-length: 10\r\n\r\n"),
        (whole, REQUEST + b"connection: close\r\n\r\n", b"\r\nconnection: close\r\n\r\n" + BODY),
        (streamed, REQUEST + b"\r\n", b"transfer-encoding: chunked\r\n\r\na\r\n" + BODY + b"\r\n0\r\n\r\n"),
    ],
)
async def test_the_unusual_is_written_by_uvicorn(app: Any, sent: bytes, expected: bytes) -> None:
    wire = await served(app, sent)
    assert b"".join(wire.pieces).endswith(expected)


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\r\nx-two: 2"])
async def test_a_header_with_a_line_break_is_never_sent(value: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                cast("list[Any]", message["headers"]).append((b"x-bad", value))
            await send(message)

        await Response(BODY)(scope, receive, with_header)

    wire = await served(app, REQUEST + b"\r\n")
    assert b"x-bad" not in b"".join(wire.pieces)
