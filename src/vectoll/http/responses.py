"""Answers in JSON: whole, or made while they are sent."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vectoll.http.disconnect import CancelledOnDisconnect

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def json_bytes(body: Any) -> bytes:
    """``body`` as JSON. Decimals become exact JSON numbers, never by way of a float."""
    return _ENCODER.encode(body)


class JsonResponse(Response):
    """A whole answer in JSON. Its headers are made in a fifth of the time that Starlette takes for them.

    ``headers`` have names in lower case, and neither content-type nor content-length.
    """

    media_type = "application/json"

    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers.extend(
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
            )


def json_response(body: Any, status: int = 200) -> Response:
    """An answer of ``json_bytes(body)``."""
    return JsonResponse(json_bytes(body), status)


class StreamCompressor(Protocol):
    """One coding applied to one body, piece by piece."""

    def compress(self, piece: bytes, /) -> bytes:
        """What can be sent by now; often nothing."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


class StreamedResponse(Response):
    """An answer of 200 in JSON, made in threads while it is sent: the next piece when the last is on its way.

    The server's ``send`` waits for a client that reads slowly, so no more than a few pieces are held.
    """

    media_type = "application/json"

    def __init__(
        self,
        pieces: Iterator[bytes],
        least_bytes: int,
        measure: Callable[[str, float], None],
        headers: Mapping[str, str],
    ) -> None:
        """``pieces`` must not fail, and are ``least_bytes`` or more together.

        ``measure`` is told the seconds of the stages serialise and compress.
        """
        self.least_bytes = least_bytes
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._pieces = pieces
        self._measure = measure
        self._compressor: StreamCompressor | None = None
        self._rest = b""
        self._serialise_s = self._compress_s = 0.0

    def compress(self, compressor: StreamCompressor) -> None:
        """Send what this makes of the pieces."""
        self._compressor = compressor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it. Raises ClientDisconnect when the client leaves on the way."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with CancelledOnDisconnect(receive):
                while (body := await asyncio.to_thread(self._next)) is not None:
                    if body:
                        await send({"type": "http.response.body", "body": body, "more_body": True})
            # after the last message a server's ``receive`` says that the client has left
            await send({"type": "http.response.body", "body": self._rest, "more_body": False})
        finally:
            self._measure("serialise", self._serialise_s)
            if self._compressor is not None:
                self._measure("compress", self._compress_s)

    def _next(self) -> bytes | None:
        """What to send next; None when only the rest is left."""
        started = time.perf_counter()
        piece = next(self._pieces, None)
        written = time.perf_counter()
        self._serialise_s += written - started
        if self._compressor is None:
            return piece
        if piece is None:
            self._rest = self._compressor.flush()
        body = None if piece is None else self._compressor.compress(piece)
        self._compress_s += time.perf_counter() - written
        return body
