"""Reading requests: what is one by RFC 9112, and how large its parts may be."""

import asyncio
import re
from typing import cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vectoll.server.answering import WholeAnswers

MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers; and of what else may come between two parts of a body: chunks' sizes and their
extensions, trailers. At most twice as much where it begins in the middle of what was read."""

MAX_PIPELINED = 8
"""Requests that are read while one is being answered."""

DRAIN_BYTES = 64 << 20
"""What is read, and thrown away, of what a client goes on sending after its answer: a body that is too large to be
served, say, whose sender does not look for an answer before the end."""

_FRAMING = frozenset({b"host", b"transfer-encoding", b"expect"})
_OTHER_METHOD = re.compile(rb"[A-Z-]+ [/*]")
_OTHER_VERSION = ("Invalid HTTP version", "Pause on PRI/Upgrade", "Expected HTTP/2 Connection Preface")


class RequestReader(WholeAnswers):
    """uvicorn's reading of requests, made fit for clients that may be anybody."""

    unframed = 0
    """Bytes that were read since the last that belonged to a body, or ended a head."""

    waited_s = 0.0
    """Since the last progress: a head that began or ended, a part of a body, an answer."""

    since_head_s = 0.0
    """Since the last head ended."""

    is_in_head = False
    _hosts = 0
    _codings = b""

    _to_drain = DRAIN_BYTES
    """Bytes of a body that are still read once its request is answered."""

    def refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and read no more."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once, whatever waits."""
        raise NotImplementedError

    @property
    def incomplete(self) -> RequestResponseCycle | None:
        """The request whose body has not come to its end."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle if cycle is not None and cycle.more_body else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here. One of IPv4 is known by its IPv4 address, also at a socket for both."""
        super().connection_made(transport)
        if self.client is not None:
            host, port = self.client
            self.client = host.removeprefix("::ffff:") if "." in host else host, port
        self.on_message_begin()  # what is refused before it has begun is refused as a message that has nothing yet
        self.is_in_head = False

    def data_received(self, data: bytes) -> None:
        """Whatever came in."""
        if self.unframed + len(data) > MAX_HEAD_BYTES:
            self._read_in_parts(memoryview(data))
        else:
            self._read(data)

    def _read_in_parts(self, data: memoryview) -> None:
        """The parser calls for every header, and adds what it knows of one to what it has: it must not get too much."""
        while data and not self.transport.is_closing():
            room = MAX_HEAD_BYTES - self.unframed
            if room <= 0:
                self._refuse_excess()
                return
            self._read(data[:room])
            data = data[room:]

    def _read(self, data: bytes | memoryview) -> None:
        self.unframed += len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self.refuse(501, "This server is no proxy.")
                    return
                (begun,) = upgrade.args
                data = self._read_anew() + data[begun:]
            except httptools.HttpParserError as error:
                fault = _fault(error, data)
                self.refuse(fault.status, str(fault))
                return
            else:
                return

    def _read_anew(self) -> bytes:
        """The head of a request to upgrade, without that.

        Who offers another protocol with an ordinary request may be answered in this one (RFC 9110 §7.8), but the
        parser takes all that follows to be in the other.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = _new_parser(self)
        return b"".join((b"%b %b HTTP/%b\r\n" % (method, self.url, version), *headers, b"\r\n"))

    def _refuse_excess(self) -> None:
        limit = f"{MAX_HEAD_BYTES} bytes"
        if self.incomplete:
            self.refuse(400, f"There are more than {limit} between two parts of the request body.")
        elif 2 * len(self.url) > MAX_HEAD_BYTES:
            self.refuse(414, f"The request line and the headers are longer than {limit} together.")
        else:
            self.refuse(431, f"The request line and the headers are longer than {limit} together.")

    def on_message_begin(self) -> None:
        """The parser has found the first byte of a request."""
        super().on_message_begin()
        self._to_drain = DRAIN_BYTES
        self.is_in_head = True
        self.waited_s = 0.0
        self._hosts = 0
        self._codings = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has read a header."""
        name = name.lower()
        if name in _FRAMING:
            if name == b"host":
                self._hosts += 1
            elif name == b"transfer-encoding":
                self._codings += value.lower()
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def _check_head(self) -> None:
        """Raises _Fault for what the parser lets through."""
        version = self.parser.get_http_version()
        if version == "1.0":
            self.expect_100_continue = False  # which knows no such answer (RFC 9110 §10.1.1)
        elif version != "1.1":
            raise _Fault(505, f"HTTP/{version} is not spoken here.")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            raise _Fault(400, "This is no valid HTTP request: there is not one Host header")
        if self._codings and self._codings != b"chunked":
            raise _Fault(501, "The only transfer coding of requests here is chunked.")

    def on_headers_complete(self) -> None:
        """The parser has read a head."""
        if self.parser.should_upgrade():
            return  # it comes again
        self._check_head()
        super().on_headers_complete()
        self.unframed = 0
        self.is_in_head = False
        self.waited_s = self.since_head_s = 0.0
        if self.flow.read_paused:
            self._read_ahead()
        self.headers = []  # trailers are no headers, and nobody here asks for them

    def on_body(self, body: bytes) -> None:
        """The parser has read a part of a body."""
        self.unframed = 0
        if self.cycle.response_complete:
            self._to_drain -= len(body)
            if self._to_drain < 0:
                self.abort()
            return
        self.waited_s = 0.0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has read a request."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self.cycle.more_body = False  # also where it was answered before
        if self.flow.read_paused:
            self._read_ahead()

    def _read_ahead(self) -> None:
        """Where nothing is read, nobody hears of a client that leaves. uvicorn stops at the second request at once."""
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()


class DiscardingParser:
    """Takes a parser's place and discards what comes; aborts the connection after ``DRAIN_BYTES``."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader
        self._left = DRAIN_BYTES

    def feed_data(self, data: bytes) -> None:
        """Discard it."""
        self._reader.unframed = 0
        self._left -= len(data)
        if self._left < 0:
            self._reader.abort()


class _Fault(Exception):
    """Why this is no request."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def _fault(error: httptools.HttpParserError, data: bytes | memoryview) -> _Fault:
    """What the parser, or we, found wrong, in words that quote nothing of what was sent."""
    if isinstance(error.__context__, _Fault):
        return error.__context__
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _OTHER_METHOD.match(data):
        return _Fault(501, "No such method is known here.")
    if str(error) in _OTHER_VERSION:
        return _Fault(505, "This version of HTTP is not spoken here.")
    # a callback's error: uvicorn could not read what the parser let through
    what = "its target is invalid" if isinstance(error, httptools.HttpParserCallbackError) else str(error)
    return _Fault(400, f"This is no valid HTTP request: {what}")


def _new_parser(protocol: WholeAnswers) -> httptools.HttpRequestParser:
    """As uvicorn makes it."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
