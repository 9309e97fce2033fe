"""The door of the API: who is calling, and may they come in now."""

from starlette.requests import Request

from vectoll.core.admission import Permit
from vectoll.core.auth import require_admin
from vectoll.domain.errors import Draining, InvalidRequest, Unauthenticated
from vectoll.domain.identity import Principal
from vectoll.http.record import record_of, stranger
from vectoll.http.services import Phase, services_of

MAX_IDEMPOTENCY_KEY = 255


async def admit(request: Request) -> tuple[Principal, Permit]:
    """The caller, and a permit to be used as a context manager. Counts no request: the route does, by model.

    Runs before the body is read: it needs the headers only, and a stranger's 32 MB are not worth reading.
    Raises Unauthenticated (a stranger's attempts count against their address), RateLimited, Draining.
    """
    services, record = services_of(request), record_of(request.scope)
    _refuse_when_draining(request)
    try:
        principal = await services.auth.identify(request.headers)
    except Unauthenticated:
        await (await _admit_stranger(request)).take_request()
        raise
    record.principal, record.caller = principal, principal.caller
    record.permit = permit = await services.admission.admit(principal.caller)
    return principal, permit


async def admit_to_account(request: Request, *, admin: bool = False) -> tuple[Principal, Permit]:
    """``admit`` for the routes about the caller's own account, which are counted as requests for no model.

    Raises Forbidden where ``admin`` asks for an ADMIN key and this is none.
    """
    principal, permit = await admit(request)
    await permit.take_request()
    if admin:
        require_admin(principal)
    return principal, permit


async def admit_anyone(request: Request) -> Permit:
    """A permit for a caller who need not say who they are. Raises Unauthenticated for credentials that are bad."""
    services, record = services_of(request), record_of(request.scope)
    _refuse_when_draining(request)
    try:
        principal = await services.auth.identify_if_any(request.headers)
    except Unauthenticated:
        await (await _admit_stranger(request)).take_request()
        raise
    if principal is None:
        permit = await _admit_stranger(request)
    else:
        record.principal, record.caller = principal, principal.caller
        record.permit = permit = await services.admission.admit(principal.caller)
    await permit.take_request()
    return permit


async def _admit_stranger(request: Request) -> Permit:
    record = record_of(request.scope)
    record.caller = stranger(request.scope)
    record.permit = permit = await services_of(request).admission.admit(record.caller)
    return permit


def _refuse_when_draining(request: Request) -> None:
    if services_of(request).readiness.phase is Phase.DRAINING:
        raise Draining


def idempotency_key_of(request: Request) -> str | None:
    """The Idempotency-Key. Raises InvalidRequest unless it is 1 to 255 printable ASCII characters."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest.at(
            ("Idempotency-Key",),
            f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters",
        )
    return key
