"""One client's connection: what may come in on it, and how it ends."""

import asyncio
from typing import Any, cast

import httptools
import structlog

from vectoll.answering import WholeAnswers, head_of
from vectoll.http.errors import refusal

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.serving")

DRAIN_BYTES = 64 << 20
"""What is read, and thrown away, of what a client goes on sending after its last answer: a body that is too large to be
served, say, whose sender does not look for an answer before the end."""


class Connection(WholeAnswers):
    """HTTP/1.1 for clients that may be anybody. uvicorn's protocol reads requests from it; what is none is refused."""

    def data_received(self, data: bytes) -> None:
        """Whatever came in."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is no valid HTTP request: {_what(error)}")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here."""
        super().connection_made(transport)
        self.on_message_begin()  # what is refused before it has begun is refused as a message that has nothing yet

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and close."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        response = refusal({"path": path, "headers": self.headers}, status, message)
        request_id = response.headers["x-request-id"]
        log.info("request refused", request_id=request_id, status=status, reason=message)
        head = head_of(self.server_state.default_headers, status, response.raw_headers)
        self.transport.writelines((head, response.body))
        self._linger()

    def finish(self) -> None:
        """The last answer of this connection is written; perhaps before all of its request is here."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Send no more, and read until the client has seen that (RFC 9112 §9.6).

        A socket that is closed with something unread is reset, and the client's side then throws our answer away.
        """
        self.parser = cast("Any", _Deaf(self.transport))
        self.transport.write_eof()
        self.flow.resume_reading()


class _Deaf:
    """A parser that hears nothing, for so long."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = DRAIN_BYTES

    def feed_data(self, data: bytes) -> None:
        """Throw it away."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()


def _what(error: httptools.HttpParserError) -> str:
    """What the parser found wrong, in words that quote nothing of what was sent."""
    if isinstance(error, httptools.HttpParserCallbackError):  # what the parser let through, uvicorn did not
        return "its target is invalid"
    return str(error)
