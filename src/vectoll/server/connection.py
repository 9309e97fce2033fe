"""One client's connection: how long it waits for what, whom it refuses, and how it ends."""

import asyncio
import socket
import sys
from collections import deque
from typing import Any, cast

import structlog
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vectoll.http.disconnect import WATCH_AFTER_S, client_left
from vectoll.http.errors import refusal
from vectoll.server.answering import head_of
from vectoll.server.reading import DiscardingParser, RequestReader

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.server.serving")

HEAD_TIMEOUT_S = 30.0
"""From a request's first byte, or from a new connection, to the end of a head."""
BODY_TIMEOUT_S = 60.0
"""Between two parts of a body; and for how long a client may take nothing of its answer."""
WHOLE_BODY_S = 600.0
"""For a body, however many parts it comes in: what is here of it takes memory that others are refused for."""
LINGER_S = 30.0
"""For what a client goes on sending after its answer."""


class Connection(RequestReader):
    """HTTP/1.1 for clients that are slow, leave, or send what is no request."""

    def __init__(self, *args: Any, most_connections: int = sys.maxsize, **options: Any) -> None:
        """Of more than ``most_connections`` at once the last is answered 503 and closed."""
        super().__init__(*args, **options)
        self._most_connections = most_connections

    _answered: RequestResponseCycle | None = None
    """The request that is being answered, or was last."""

    _is_discarding = False
    _unsent = 0
    _has_ended = False
    """The client sends no more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here. Where there are too many it is not kept: even one that says nothing is an open file."""
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            self._send_refusal(503, "The server has as many connections as it can. Please try again later.")
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or we have closed. uvicorn tells only the newest of the requests."""
        for cycle in self._unanswered():
            self._leave(cycle)
        super().connection_lost(exc)
        self._answered = None
        self.cycle = cast("Any", None)  # it may refer to us: the collector would have to come

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns nothing: it closes
        """The client sends no more. It has left, or waits for what it asked for: to the network that looks alike."""
        incomplete, waiting = self.incomplete, self._unanswered()
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
        self.since_head_s += seconds
        if self.waited_s < LINGER_S and self.since_head_s < WHOLE_BODY_S:
            return  # the shortest: no need to look closer
        patience_s = self._patience_s()
        if patience_s is None or self.waited_s < patience_s:
            return
        cycle = self.incomplete
        if (
            self._is_discarding
            or self.flow.write_paused
            or not (self.is_in_head or cycle)
            or (cycle and cycle.response_started)
        ):
            self.abort()
        elif patience_s:
            self.refuse(408, f"Nothing more of this request came within {patience_s:.0f} seconds.")
        else:
            self.refuse(408, f"The request body did not come to its end within {WHOLE_BODY_S:.0f} seconds.")

    def _patience_s(self) -> float | None:
        """How long the client may take to go on; None where it is not for the client to go on, 0 for no longer."""
        if self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent != self._unsent:
                self._unsent, self.waited_s = unsent, 0.0
            return BODY_TIMEOUT_S
        if self._is_discarding:
            return None if self._unanswered() else LINGER_S
        if self.incomplete:
            if self.incomplete.response_complete:
                return LINGER_S
            if self.flow.read_paused:
                return None
            return BODY_TIMEOUT_S if self.since_head_s < WHOLE_BODY_S else 0.0
        if self._unanswered():
            return None
        is_new = cast(RequestResponseCycle | None, self.cycle) is None
        return HEAD_TIMEOUT_S if self.is_in_head or is_new else self.timeout_keep_alive

    def refuse(self, status: int, message: str) -> None:
        """Answer what is no request, after those that were, and close."""
        waiting = self._unanswered()
        at_fault = self.incomplete
        if at_fault:
            if at_fault.response_started:
                self._cut_off(at_fault)
                return
            waiting.remove(at_fault)
            self._leave(at_fault)
        self._discard()
        if waiting:
            waiting[-1].keep_alive = False
        else:
            self._send_refusal(status, message)
            self._linger()

    def _cut_off(self, cycle: RequestResponseCycle) -> None:
        """Its answer has begun, so nothing else can be said."""
        if cycle.response_complete:
            self._linger()
        else:
            self.abort()

    def _unanswered(self) -> list[RequestResponseCycle]:
        """Requests that wait for an answer, oldest first."""
        begun = [] if self._answered is None else [self._answered]
        cycles = [*begun, *(cycle for cycle, _ in reversed(self.pipeline))]
        return [cycle for cycle in cycles if not (cycle.response_complete or cycle.disconnected)]

    def _leave(self, cycle: RequestResponseCycle) -> None:
        """Nothing will come of this request."""
        cycle.disconnected = True
        cycle.waiting_for_100_continue = False  # its application may be about to ask for the body
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
        log.info("request_refused", request_id=request_id, status=status, reason=message)
        head = head_of(self.server_state.default_headers, status, response.raw_headers)
        self.transport.writelines((head, response.body))

    def finish(self) -> None:
        """The last answer of this connection is written; perhaps before all of its request is here."""
        if self.incomplete or self._is_discarding:
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
        self._discard()
        self.transport.write_eof()
        self.flow.resume_reading()

    def _discard(self) -> None:
        """Throw away what comes, for a while."""
        if not self._is_discarding:
            self.parser = cast("Any", DiscardingParser(self))
            self._is_discarding = True
        self.is_in_head = False
        self.waited_s = 0.0
        self.unframed = 0
