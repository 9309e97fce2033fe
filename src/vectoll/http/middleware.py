"""What wraps every request, one concern each, in pure ASGI."""

import time
import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vectoll.core.admission import Admission
from vectoll.domain.errors import VectollError
from vectoll.domain.limits import LimitState
from vectoll.http.errors import CALLERS_FAULT, CLIENT_LEFT, error_response
from vectoll.http.record import RequestRecord, begin_record, is_api, record_of, route_template, stranger
from vectoll.ports.metrics import ServerMetrics

_access_log: structlog.stdlib.BoundLogger = structlog.get_logger("vectoll.access")
_error_log: structlog.stdlib.BoundLogger = structlog.get_logger("vectoll.error")

RawHeaders = list[tuple[bytes, bytes]]


class RequestIdMiddleware:
    """Opens the request's record and puts its id on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = begin_record(scope).request_id.encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        await self.app(scope, receive, send_with_id)


class AccessLogMiddleware:
    """One line and one count per request, when it is over. Never a key, never a text."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            record = record_of(scope)
            seconds = time.perf_counter() - record.started
            route = route_template(scope)
            self.metrics.answered(scope["method"], route, status, seconds)
            _log_access(scope["method"], route, status, seconds, record)


def _log_access(method: str, route: str, status: int, seconds: float, record: RequestRecord) -> None:
    principal = record.principal
    _access_log.info(
        "request",
        request_id=record.request_id,
        method=method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 3),
        model=record.model,
        tokens=record.tokens,
        account=principal.account if principal else None,
        key=principal.key if principal else None,
        code=record.error_code,
    )


_DATA: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
_SECRETS: RawHeaders = [*_DATA, (b"cache-control", b"no-store")]


class SecurityHeadersMiddleware:
    """Answers are data: never sniffed, never framed; those of the API are stored by nobody on the way.

    A page brings a policy of its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: RawHeaders = message["headers"]
                present = {name for name, _ in headers}
                added = _SECRETS if is_api(scope) else _DATA
                headers.extend(header for header in added if header[0] not in present)
            await send(message)

        await self.app(scope, receive, send_secured)


class LimitsMiddleware:
    """Counts failures against their callers, and tells callers where they stand with each limit."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self.app = app
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http" or not is_api(scope):
            await self.app(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                record = record_of(scope)
                caller = record.caller or stranger(scope)
                if message["status"] in CALLERS_FAULT:
                    await self.admission.record_failure(caller)
                requests, tokens = await self._standing(record, caller)
                headers: RawHeaders = message["headers"]
                headers.extend(_limit_headers(b"requests", requests))
                headers.extend(_limit_headers(b"tokens", tokens))
            await send(message)

        await self.app(scope, receive, send_with_limits)

    async def _standing(
        self, record: RequestRecord, caller: str
    ) -> tuple[LimitState | None, LimitState | None]:
        """What the permit has seen; what it has not is looked up."""
        permit = record.permit
        requests, tokens = (permit.requests, permit.tokens) if permit else (None, None)
        if requests is None or tokens is None:
            now_requests, now_tokens = await self.admission.standing(caller, record.model)
            requests, tokens = requests or now_requests, tokens or now_tokens
        return requests, tokens


def _limit_headers(what: bytes, state: LimitState | None) -> RawHeaders:
    if state is None:
        return []
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % state.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % state.remaining),
        (b"x-ratelimit-reset-" + what, b"%d" % state.reset_s),
    ]


class UnexpectedErrorMiddleware:
    """The last line: a defect answers 500 in the right shape and leaves a trace that quotes no data."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting_start)
        except Exception as error:  # noqa: BLE001 - answered as 500 and logged; the process serves on
            _log_defect(scope, error)
            if not has_started:
                response = error_response(scope, VectollError("Internal error. Please try again."))
                await response(scope, receive, send)


def _log_defect(scope: Scope, error: Exception) -> None:
    """Where it happened, not what was said: an exception's message may quote an input."""
    frames = traceback.extract_tb(error.__traceback__)
    _error_log.error(
        "unexpected error",
        request_id=record_of(scope).request_id,
        route=route_template(scope),
        error=type(error).__qualname__,
        frames=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    )
