"""One line and one count per request, when it is over. Never a key, never a text."""

import time

import structlog
from starlette.types import Scope

from vectoll.http.record import RequestRecord, route_template
from vectoll.ports.metrics import ServerMetrics

_log: structlog.stdlib.BoundLogger = structlog.get_logger("vectoll.access")


class AccessLog:
    """Writes to the log and to the metrics."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def write(self, scope: Scope, record: RequestRecord, status: int) -> None:
        """One request was answered, or left unanswered."""
        seconds = time.perf_counter() - record.started
        method, route, principal = scope["method"], route_template(scope), record.principal
        self._metrics.answered(method, route, status, seconds)
        _log.info(
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
