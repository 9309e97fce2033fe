"""Writing answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vectoll.http.headers import RawHeaders

Message = Any
Send = Callable[[Message], Awaitable[None]]


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, but a whole answer goes out in one write.

    uvicorn writes head and body apart, a system call and a packet each, and searches every header twice.
    """

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, _Answer(cycle, app, self.finish).run)

    def finish(self) -> None:
        """The last answer of this connection is written."""
        self.transport.close()


class _Answer:
    """The answer of one of uvicorn's cycles. What is unusual about it is left to uvicorn.

    Those of one turn of the loop are all made, then all written, then all logged: each of these is faster after its
    like, while the core's caches hold what it needs. Hence the pauses.
    """

    def __init__(self, cycle: RequestResponseCycle, app: Any, finish: Callable[[], None]) -> None:
        self._cycle = cycle
        self._app = app
        self._finish = finish
        self._start: Message = None

    def run(self, scope: Any, receive: Any, send: Send) -> Awaitable[None]:
        """The application's own coroutine."""
        self._send_on = send
        answered: Awaitable[None] = self._app(scope, receive, self._send)
        return answered

    async def _send(self, message: Message) -> None:
        """Keep the head until the first part of the body is here."""
        start = self._start
        if start is None:
            self._start = message
            await asyncio.sleep(0)
        elif self._is_whole(start, message) and (head := self._head(start)):
            self._write(head, message["body"])
            await asyncio.sleep(0)
        else:
            if self._cycle.transport.is_closing():
                self._cycle.disconnected = True  # connection_lost is yet to come
            if not self._cycle.response_started:
                self._cycle.transport = cast("Any", _Closing(self._cycle.transport, self._finish))
                await self._send_on(start)
            await self._send_on(message)

    def _head(self, start: Message) -> bytes:
        return head_of(self._cycle.default_headers, start["status"], start["headers"])

    def _is_whole(self, start: Message, message: Message) -> bool:
        """Whether uvicorn would write these two and no more, and leave the connection open."""
        cycle = self._cycle
        return (
            not (cycle.response_started or cycle.disconnected or cycle.flow.write_paused)
            and not cycle.transport.is_closing()
            and cycle.keep_alive
            and cycle.scope["method"] != "HEAD"
            and not message.get("more_body", False)
            and (b"content-length", b"%d" % len(message["body"])) in start["headers"]
        )

    def _write(self, head: bytes, body: bytes) -> None:
        cycle = self._cycle
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.writelines((head, body))
        cycle.message_event.set()
        cycle.on_response()


class _Closing:
    """A transport, as far as an answer needs it, that is closed in another way."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def head_of(default_headers: RawHeaders, status: int, headers: RawHeaders) -> bytes:
    """The head as bytes; empty where a header has a line break in it."""
    lines = [b"%b: %b\r\n" % header for header in (*default_headers, *headers)]
    head = b"".join((STATUS_LINE[status], *lines, b"\r\n"))
    return head if head.count(b"\n") == head.count(b"\r") == len(lines) + 2 else b""
