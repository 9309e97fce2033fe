"""Errors on the wire: the only exception → status table, and both of the shapes they take."""

import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from vectoll.domain.errors import (
    ContentEncoded,
    FieldIssue,
    Forbidden,
    IdempotencyConflict,
    InferenceFailed,
    InvalidRequest,
    NoCredentials,
    NotFound,
    PayloadTooLarge,
    PaymentRequired,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
    VectollError,
    format_path,
)
from vectoll.domain.payments import (
    PaymentAlreadyCredited,
    PaymentHeaderNotAccepted,
    PaymentInProgress,
    PaymentOutcomeUnknown,
    PaymentRefused,
)
from vectoll.http.body import as_error
from vectoll.http.headers import add_security_headers
from vectoll.http.record import begin_record, record_of, route_template, speaks_openai
from vectoll.http.responses import JsonResponse, json_bytes
from vectoll.http.routing import RouteError
from vectoll.http.wallet_answers import (
    is_top_up,
    payment_error_body,
    payment_request,
    settlement_headers,
    wallets_sign_in,
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("vectoll.error")

STATUS: Mapping[type[VectollError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    PaymentRequired: 402,
    Forbidden: 403,
    NotFound: 404,
    IdempotencyConflict: 409,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    RateLimited: 429,
    InferenceFailed: 500,
    Unavailable: 503,
    PaymentRefused: 400,
    PaymentHeaderNotAccepted: 400,
    PaymentAlreadyCredited: 409,
    PaymentInProgress: 409,
    PaymentOutcomeUnknown: 504,
    VectollError: 500,
}
"""A subclass has its nearest listed ancestor's status."""

OPENAI_STATUS: Mapping[type[VectollError], int] = {**STATUS, UnknownModel: 404}
"""OpenAI's clients look for 404 ``model_not_found``."""

CALLERS_FAULT = frozenset({400, 401, 403, 404, 409, 413, 415})
"""Statuses that count towards blocking a caller. Missing credit, limits and our own failures do not."""

PAYMENT_HEADER = "PAYMENT-SIGNATURE"

_KEY_OR_PAYMENT = (
    "Payment required: send `Authorization: Bearer <API key>`, or sign in with a wallet that has credit; "
    "the PAYMENT-REQUIRED header says how."
)
"""To a caller without credentials, where wallets can pay: 402 and not 401, so that x402 clients pay."""

_KEY_OR_SIGN_IN = (
    "Authentication failed: send `Authorization: Bearer <API key>`, or a wallet's `SIGN-IN-WITH-X`."
)
"""To the same caller where nothing is to be paid for."""

MAX_RETRY_AFTER_S = 59
"""openai-node before 7 and the AI SDK heed less than a minute, openai-python before 3 a minute at most; where it is
more they come back within seconds. Who has to wait longer is told the rest when they are back."""

CLIENT_LEFT = 499
"""Logged for a client that went away before its answer; nobody receives it."""

_OPENAI_CODES: Mapping[type[VectollError], str] = {
    UnknownModel: "model_not_found",
    Unauthenticated: "invalid_api_key",
}
_OPENAI_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}


def error_response(scope: Scope, error: VectollError, status: int | None = None) -> Response:
    """The answer to an error, in the shape of the base path that the request came to."""
    record_of(scope).error_code = error.code
    is_openai = speaks_openai(scope)
    status = status or _nearest(OPENAI_STATUS if is_openai else STATUS, error)
    payment = payment_request(scope, error)
    if payment is not None:
        status = 402
    elif isinstance(error, NoCredentials) and wallets_sign_in(scope):
        error = Unauthenticated(_KEY_OR_SIGN_IN)
    body = _openai_body(error, status) if is_openai else payment.body if payment else _spec_body(scope, error)
    headers = _headers(error, status) | (payment.headers if payment else {}) | settlement_headers(scope)
    return JsonResponse(json_bytes(body), status, headers)


def refusal(scope: Scope, status: int, message: str) -> Response:
    """The whole answer to what reaches no application. ``scope`` has a path and headers, as far as they were read."""
    record = begin_record(scope)
    error = InvalidRequest.at((), message) if status == 400 else _Refused(status, message)
    body = _openai_body(error, status) if speaks_openai(scope) else _spec_body(scope, error)
    headers = {"connection": "close", "x-request-id": record.request_id}
    if status == 503:
        headers["retry-after"] = "1"
    response = JsonResponse(json_bytes(body), status, headers)
    add_security_headers(scope, response)
    return response


class _Refused(VectollError):
    """What the server does not take to be a request."""

    def __init__(self, status: int, message: str) -> None:
        self.code = HTTPStatus(status).name
        super().__init__(message)


def answer_error(request: Request, error: Exception) -> Response:
    """The answer to whatever an endpoint raised. A defect is logged, and answered as 500 in the right shape."""
    scope = request.scope
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_LEFT)  # servers drop what is sent to nobody
    if isinstance(error, RouteError):
        return _route_error_response(request, error)
    if isinstance(error, VectollError):
        return error_response(scope, error)
    _log_defect(scope, error)
    return error_response(scope, VectollError("Internal error. Please try again."))


def let_go(error: BaseException | None) -> None:
    """Free what the frames hold that an error, now answered, went through: all of a request's texts, for one.

    Where one of them has the future that the error came out of, or the error itself, they are a cycle. It would lie
    there until the collector comes, which counts seconds and not bytes (``server.serving``).
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def refuse_ambiguous(request: Request) -> None:
    """Raises InvalidRequest for a header that was given twice, and of which only one can be meant."""
    if names := record_of(request.scope).ambiguous:
        raise as_error([FieldIssue((name,), "must be given at most once") for name in names])


def _route_error_response(request: Request, error: RouteError) -> Response:
    """OPTIONS is answered with what is allowed."""
    headers = {"allow": ", ".join(error.allowed)} if error.allowed else {}
    if error.allowed and request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    response = error_response(request.scope, error, error.status)
    response.headers.update(headers)
    return response


def _log_defect(scope: Scope, error: Exception) -> None:
    """Where it happened, not what was said: an exception's message may quote an input."""
    frames = traceback.extract_tb(error.__traceback__)
    _log.error(
        "unexpected_error",
        request_id=record_of(scope).request_id,
        route=route_template(scope),
        error=type(error).__qualname__,
        frames=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    )


def _nearest(table: Mapping[type[VectollError], int], error: VectollError) -> int:
    return next(table[cls] for cls in type(error).__mro__ if cls in table)


def _headers(error: VectollError, status: int) -> dict[str, str]:
    headers = {}
    if isinstance(error, RateLimited | Unavailable) and error.retry_after_s is not None:
        headers["retry-after"] = str(min(error.retry_after_s, MAX_RETRY_AFTER_S))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, ContentEncoded):
        headers["accept-encoding"] = "identity"
    return headers


def _spec_body(scope: Scope, error: VectollError) -> Any:
    """``StandardError``, or ``DetailedError`` where the request itself is wrong; payments have their own shape."""
    if is_top_up(scope):
        return payment_error_body(error)
    body: dict[str, Any] = {"error": str(error), "code": error.code}
    if isinstance(error, InvalidRequest):
        body["details"] = details_tree(error.issues)
    elif isinstance(error, PaymentRefused | PaymentHeaderNotAccepted):
        body["details"] = details_tree([FieldIssue((PAYMENT_HEADER,), str(error))])
    return body


def _openai_body(error: VectollError, status: int) -> dict[str, Any]:
    fallback_type = "server_error" if status >= 500 else "invalid_request_error"
    if status == 402 and isinstance(error, Unauthenticated):
        error = PaymentRequired(_KEY_OR_PAYMENT)
    code = next(
        (_OPENAI_CODES[cls] for cls in type(error).__mro__ if cls in _OPENAI_CODES), error.code.lower()
    )
    issues = error.issues if isinstance(error, InvalidRequest) else ()
    return {
        "error": {
            "message": str(error),
            "type": _OPENAI_TYPES.get(status, fallback_type),
            "param": (format_path(issues[0].path) or None) if issues else None,
            "code": code,
        }
    }


def details_tree(issues: Sequence[FieldIssue]) -> dict[str, Any]:
    """Issues nested by their paths, messages under ``_errors`` (the shape of zod's ``format()``).

    ``{"_errors": [], "input": {"_errors": [], "3": {"_errors": ["must not be empty"]}}}``
    """
    root: dict[str, Any] = {"_errors": []}
    for issue in issues:
        node = root
        for step in issue.path:
            node = node.setdefault(str(step), {"_errors": []})
        node["_errors"].append(issue.message)
    return root
