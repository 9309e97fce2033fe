"""One client's connection: what may come in on it, and how it ends."""

import asyncio
import socket
from collections import deque
from typing import Any, cast

import httptools
import structlog
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vectoll.answering import WholeAnswers, head_of
from vectoll.http.disconnect import WATCH_AFTER_S, client_left
from vectoll.http.errors import refusal

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.serving")

MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers; and of what else may come between two parts of a body: chunks' sizes and their
extensions, trailers. At most twice as much where it begins in the middle of what was read."""

HEAD_TIMEOUT_S = 30.0
"""From a request's first byte, or from a new connection, to the end of a head."""
BODY_TIMEOUT_S = 60.0
"""Between two parts of a body; and for how long a client may take nothing of its answer."""
LINGER_S = 30.0
"""For what a client goes on sending after its answer."""

MAX_PIPELINED = 8
"""Requests that are read while one is being answered."""

DRAIN_BYTES = 64 << 20
"""What is read, and thrown away, of what a client goes on sending after its last answer: a body that is too large to be
served, say, whose sender does not look for an answer before the end."""


class Connection(WholeAnswers):
    """HTTP/1.1 for clients that may be anybody. uvicorn's protocol reads requests from it; what is none is refused."""

    unframed = 0
    """Bytes that were read since the last that belonged to a body, or ended a head."""

    waited_s = 0.0
    """Since the last progress: a head that began or ended, a part of a body, an answer."""
    _is_in_head = False
    _is_deaf = False
    _unsent = 0
    _has_ended = False
    """The client sends no more."""

    _answered: RequestResponseCycle | None = None
    """The request that is being answered, or was last."""

    _to_drain = DRAIN_BYTES
    """Bytes of a body that are still read once its request is answered."""

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
                    self._refuse(501, "This server is no proxy.")
                    return
                (begun,) = upgrade.args
                data = self._read_anew() + data[begun:]
            except httptools.HttpParserError as error:
                self._refuse(400, f"This is no valid HTTP request: {_what(error)}")
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here."""
        super().connection_made(transport)
        self.on_message_begin()  # what is refused before it has begun is refused as a message that has nothing yet
        self._is_in_head = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or we have closed. uvicorn tells only the newest of the requests."""
        for cycle in self._unanswered():
            self._leave(cycle)
        super().connection_lost(exc)
        self._answered = None
        self.cycle = cast("Any", None)  # it may refer to us: the collector would have to come

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns nothing: it closes
        """The client sends no more. It has left, or waits for what it asked for: to the network that looks alike."""
        incomplete, waiting = self._incomplete, self._unanswered()
        if incomplete in waiting:
            waiting.remove(incomplete)
        if not waiting:
            return False
        if incomplete:
            self._leave(incomplete)
        waiting[-1].keep_alive = False
        self._has_ended = True
        self.loop.call_later(WATCH_AFTER_S, self._ask_whether_it_is_there)
        return True

    def _ask_whether_it_is_there(self) -> None:
        """Only one who has left refuses what is sent to them.

        All that can be sent before an answer is 100 Continue, in HTTP/1.1: an older client is taken to have left.
        """
        for cycle in self._unanswered()[:1]:
            if cycle.response_started:
                continue  # writing it is question enough
            if cycle.scope["http_version"] == "1.0":
                self.abort()
                return
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._look_for_refusal(WATCH_AFTER_S)

    def _look_for_refusal(self, again_after_s: float) -> None:
        """The loop, which has stopped to read, does not look."""
        if not self._unanswered():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
        else:
            self.loop.call_later(again_after_s, self._look_for_refusal, min(2 * again_after_s, 1.0))

    def abort(self) -> None:
        """Close at once, whatever waits."""
        for cycle in self._unanswered():
            self._leave(cycle)
        self.transport.abort()

    def on_message_begin(self) -> None:
        """The parser has found the first byte of a request."""
        super().on_message_begin()
        self._to_drain = DRAIN_BYTES
        self._is_in_head = True
        self.waited_s = 0.0

    def on_headers_complete(self) -> None:
        """The parser has read a head."""
        if self.parser.should_upgrade():
            return  # it comes again
        super().on_headers_complete()
        self.unframed = 0
        self._is_in_head = False
        self.waited_s = 0.0
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

    def on_response_complete(self) -> None:
        """A request was answered. uvicorn would arm a timer for each, which costs more than all that is done here."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.waited_s = 0.0
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def pass_time(self, seconds: float) -> None:
        """So much more of it has passed. To be called about once a second, for every connection: one timer for all."""
        self.waited_s += seconds
        if self.waited_s < LINGER_S:  # the shortest: no need to look closer
            return
        patience_s = self._patience_s()
        if patience_s is None or self.waited_s < patience_s:
            return
        cycle = self._incomplete
        if (
            self._is_deaf
            or self.flow.write_paused
            or not (self._is_in_head or cycle)
            or (cycle and cycle.response_started)
        ):
            self.abort()
        else:
            self._refuse(408, f"Nothing more of this request came within {patience_s:.0f} seconds.")

    def _patience_s(self) -> float | None:
        """How long the client may take to go on; None where it is not for the client to go on."""
        if self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent != self._unsent:
                self._unsent, self.waited_s = unsent, 0.0
            return BODY_TIMEOUT_S
        if self._is_deaf:
            return None if self._unanswered() else LINGER_S
        if self._incomplete:
            if self._incomplete.response_complete:
                return LINGER_S
            return None if self.flow.read_paused else BODY_TIMEOUT_S
        if self._unanswered():
            return None
        is_new = cast(RequestResponseCycle | None, self.cycle) is None
        return HEAD_TIMEOUT_S if self._is_in_head or is_new else self.timeout_keep_alive

    def _refuse_excess(self) -> None:
        limit = f"{MAX_HEAD_BYTES} bytes"
        if self._incomplete:
            self._refuse(400, f"There are more than {limit} between two parts of the request body.")
        elif 2 * len(self.url) > MAX_HEAD_BYTES:
            self._refuse(414, f"The request line and the headers are longer than {limit} together.")
        else:
            self._refuse(431, f"The request line and the headers are longer than {limit} together.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, after those that were, and close."""
        waiting = self._unanswered()
        at_fault = self._incomplete
        if at_fault:
            if at_fault.response_started:
                self.finish() if at_fault.response_complete else self.abort()
                return
            waiting.remove(at_fault)
            self._leave(at_fault)
        self._read_nothing()
        if waiting:
            waiting[-1].keep_alive = False
        else:
            self._send_refusal(status, message)
            self._linger()

    @property
    def _incomplete(self) -> RequestResponseCycle | None:
        """The request whose body has not come to its end."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle if cycle is not None and cycle.more_body else None

    def _unanswered(self) -> list[RequestResponseCycle]:
        """Requests that wait for an answer, oldest first."""
        begun = [] if self._answered is None else [self._answered]
        cycles = [*begun, *(cycle for cycle, _ in reversed(self.pipeline))]
        return [cycle for cycle in cycles if not (cycle.response_complete or cycle.disconnected)]

    def _leave(self, cycle: RequestResponseCycle) -> None:
        """Nothing will come of this request."""
        cycle.disconnected = True
        cycle.message_event.set()
        client_left(cast(Receive, cycle.receive))
        self.pipeline = deque(each for each in self.pipeline if each[0] is not cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _send_refusal(self, status: int, message: str) -> None:
        path = self.url.partition(b"?")[0].decode("latin-1")
        response = refusal({"path": path, "headers": self.scope["headers"]}, status, message)
        request_id = response.headers["x-request-id"]
        log.info("request refused", request_id=request_id, status=status, reason=message)
        head = head_of(self.server_state.default_headers, status, response.raw_headers)
        self.transport.writelines((head, response.body))

    def finish(self) -> None:
        """The last answer of this connection is written; perhaps before all of its request is here."""
        if self._incomplete or self._is_deaf:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Send no more, and read until the client has seen that (RFC 9112 §9.6).

        A socket that is closed with something unread is reset, and the client's side then throws our answer away.
        """
        if self._has_ended:
            self.transport.close()
            return
        self._read_nothing()
        self.transport.write_eof()
        self.flow.resume_reading()

    def _read_nothing(self) -> None:
        """Throw away what comes, for a while."""
        if not self._is_deaf:
            self.parser = cast("Any", _Deaf(self))
            self._is_deaf = True
        self._is_in_head = False
        self.waited_s = 0.0
        self.unframed = 0


class _Deaf:
    """A parser that hears nothing, for so long."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = DRAIN_BYTES

    def feed_data(self, data: bytes) -> None:
        """Throw it away."""
        self._connection.unframed = 0
        self._left -= len(data)
        if self._left < 0:
            self._connection.abort()


def _new_parser(connection: Connection) -> httptools.HttpRequestParser:
    """As uvicorn makes it."""
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _what(error: httptools.HttpParserError) -> str:
    """What the parser found wrong, in words that quote nothing of what was sent."""
    if isinstance(error, httptools.HttpParserCallbackError):  # what the parser let through, uvicorn did not
        return "its target is invalid"
    return str(error)
