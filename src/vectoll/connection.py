"""One client's connection: what may come in on it, and how it ends."""

import asyncio

import httptools
import structlog

from vectoll.answering import WholeAnswers, head_of
from vectoll.http.errors import refusal

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.serving")


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
        self.transport.close()


def _what(error: httptools.HttpParserError) -> str:
    """What the parser found wrong, in words that quote nothing of what was sent."""
    if isinstance(error, httptools.HttpParserCallbackError):  # what the parser let through, uvicorn did not
        return "its target is invalid"
    return str(error)
