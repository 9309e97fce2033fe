"""A trace around every request to the API: what happened, never who called or what they sent."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vectoll.core.admission import ANY_MODEL
from vectoll.core.tracing import Trace, Tracer
from vectoll.http.errors import CLIENT_LEFT
from vectoll.http.record import is_api, record_of, route_template

_TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})


class TracingMiddleware:
    """Around the application: what is logged about a request carries the id of its trace."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self.app = app
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http" or not is_api(scope):
            await self.app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.tracer.trace("request", _trace_headers(scope["headers"])) as trace:
            try:
                await self.app(scope, receive, send_noting_status)
            finally:
                _describe(trace, scope, status)


def _trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A header that comes twice is joined: that is what it means for tracestate, and makes traceparent invalid."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _TRACE_HEADERS:
            key, text = name.decode(), value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _describe(trace: Trace, scope: Scope, status: int) -> None:
    """By OpenTelemetry's semantic conventions. Every value is from a closed set or a number."""
    record, route, method = record_of(scope), route_template(scope), scope["method"]
    trace.name = f"{method} {route}" if route else method
    trace.is_error = status >= 500
    trace.attributes["http.request.method"] = method
    trace.attributes["http.response.status_code"] = status
    if route:
        trace.attributes["http.route"] = route
    if record.model != ANY_MODEL:
        trace.attributes["gen_ai.request.model"] = record.model
    if record.tokens is not None:
        trace.attributes["gen_ai.usage.input_tokens"] = record.tokens
    if record.error_code is not None:
        trace.attributes["error.type"] = record.error_code
