"""The door of the API: who is calling, and may they come in now."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.requests import Request

from vectoll.core.admission import Permit
from vectoll.core.auth import require_admin
from vectoll.core.billing import repeatable_id
from vectoll.core.payment_header import payment_header
from vectoll.core.recent_keys import REMEMBERED_S
from vectoll.core.signin import has_sign_in
from vectoll.domain.errors import (
    Draining,
    InvalidRequest,
    NothingToSpend,
    Unauthenticated,
    WalletBalanceTooLow,
)
from vectoll.domain.identity import Caller, Principal
from vectoll.domain.payments import MIN_WALLET_BALANCE, PaymentAlreadyCredited, PaymentHeaderNotAccepted
from vectoll.domain.wallets import parse_wallet
from vectoll.http.body import may_exceed, read_json_body
from vectoll.http.payment_required import settlement_header
from vectoll.http.record import record_of, stranger
from vectoll.http.services import Phase, WalletServices, services_of

MAX_IDEMPOTENCY_KEY = 255

UNPAID_BYTES = 4 << 10
"""Of a request whose sender may have nothing."""

P = TypeVar("P")


async def admit(request: Request) -> tuple[Principal, Permit]:
    """The caller, and a permit to be used as a context manager. Counts no request: the route does, by model.

    Runs before the body is read: it needs the headers only, and a stranger's 32 MB are not worth reading.
    Raises Unauthenticated (a stranger's attempts count against their address), RateLimited, Draining.
    """
    principal = await _identify(request, services_of(request).auth.identify)
    return principal, await _admit_principal(request, principal)


async def _identify(request: Request, ask: Callable[[Mapping[str, str], str], Awaitable[P]]) -> P:
    """Who is calling, as ``ask`` says. Raises what ``admit`` raises."""
    services, headers, client = (
        services_of(request),
        record_of(request.scope).headers,
        stranger(request.scope),
    )
    _refuse_when_draining(request)
    if services.wallets is not None and has_sign_in(headers):
        await services.admission.check_sign_in(client)
    try:
        return await ask(headers, client)
    except Unauthenticated:
        await (await admit_stranger(request)).take_request()
        raise


async def _admit_principal(request: Request, principal: Principal) -> Permit:
    services, record = services_of(request), record_of(request.scope)
    record.principal, record.caller = principal, (caller := principal.caller)
    if principal.wallet is None:
        record.permit = permit = await services.admission.admit(caller)
        return permit
    in_flight = services.settings.x402.requests_in_flight
    record.permit = permit = await services.admission.admit(caller, in_flight)
    record.funds = (await services.ledger.balance(principal.account)).total
    if record.funds < MIN_WALLET_BALANCE:
        await services.admission.record_unfunded(stranger(request.scope))
    return permit


async def admit_to_inference(request: Request) -> tuple[Principal, Permit]:
    """``admit`` for the routes that are paid for; a wallet needs some credit or allowance to be let in, but for what
    it has paid for already.

    A payment header is refused, or settled and served as its payer's where ``x402.pay_on_inference`` is on. Raises
    what ``admit`` raises, PaymentRequired, PaymentHeaderNotAccepted and what ``TopUps.top_up`` raises.
    """
    services = services_of(request)
    header = payment_header(record_of(request.scope).headers) if services.wallets else None
    if services.wallets is None or header is None:
        principal, permit = await admit(request)
    elif not services.settings.x402.pay_on_inference:
        raise PaymentHeaderNotAccepted(services.wallets.terms.top_up_url)
    else:
        principal, permit = await _admit_payer(request, services.wallets, header)
    funds = record_of(request.scope).funds
    if funds is not None and funds < MIN_WALLET_BALANCE and not await _is_charged(request, principal):
        raise WalletBalanceTooLow(MIN_WALLET_BALANCE, funds)
    return principal, permit


async def _is_charged(request: Request, principal: Principal) -> bool:
    """Whether something was charged under this request's Idempotency-Key before."""
    key = record_of(request.scope).headers.get("idempotency-key")
    if key is None:
        return False
    return await services_of(request).ledger.transfer(repeatable_id(principal.account, key)) is not None


async def _admit_payer(request: Request, wallets: WalletServices, header: str) -> tuple[Principal, Permit]:
    """Top up and let the payer in: once, for on a public chain everybody can read a settled signature."""
    permit = await admit_stranger(request)
    await permit.take_request()
    outcome = await wallets.top_ups.top_up(header, permit.caller.key)
    if not outcome.is_new:
        raise PaymentAlreadyCredited(outcome.intent.id)
    record_of(request.scope).settlement = settlement_header(outcome.intent)
    wallet = parse_wallet(outcome.intent.payer)
    principal = Principal(account=wallet.account, wallet=wallet)
    return principal, await _admit_principal(request, principal)


async def admit_to_account(request: Request, *, admin: bool = False) -> tuple[Principal, Permit]:
    """``admit`` for the routes about the caller's own account, which are counted as requests for no model.

    Raises Forbidden where ``admin`` asks for an ADMIN key and this is none.
    """
    principal, permit = await admit(request)
    await permit.take_request()
    if admin:
        require_admin(principal)
    return principal, permit


async def read_callers_body(request: Request, limit_bytes: int, advice: str = "") -> bytes:
    """``read_json_body`` of who was admitted, and still may come in when all of it is here: that can take days.

    Raises what that raises; and Unauthenticated for a key or token that was revoked, or has expired, meanwhile.
    """
    body = await read_json_body(request, limit_bytes, advice)
    record = record_of(request.scope)
    signed_in = record.principal is not None and record.principal.wallet is not None  # once, for this request
    if not signed_in and time.perf_counter() - record.started > REMEMBERED_S:
        await services_of(request).auth.identify(record.headers, stranger(request.scope))
    return body


def may_be_large(request: Request) -> bool:
    """Whether the body may be one that is read only from who can pay for it: see ``require_funds``."""
    return may_exceed(record_of(request.scope).headers, UNPAID_BYTES)


async def require_funds(request: Request, principal: Principal) -> None:
    """Raises NothingToSpend for an account that cannot pay, and could not a moment ago, before a large body is read:
    keys cost nothing, and would take the room and the time that others have paid for.

    Unless a model here is free, or this very request was paid for before.
    """
    services = services_of(request)
    if not all(spec.price.units_per_token for spec in services.models.specs):
        return
    if not (await services.funds.has_any(principal.account) or await _is_charged(request, principal)):
        raise NothingToSpend


async def admit_anyone(request: Request) -> Permit:
    """A permit for a caller who need not say who they are. Raises Unauthenticated for credentials that are bad."""
    principal = await _identify(request, services_of(request).auth.identify_if_any)
    if principal is None:
        permit = await admit_stranger(request)
    else:
        permit = await _admit_principal(request, principal)
    await permit.take_request()
    return permit


async def admit_stranger(request: Request) -> Permit:
    """A permit for a caller who is only known by address. Raises RateLimited, Draining."""
    _refuse_when_draining(request)
    record = record_of(request.scope)
    record.caller = Caller.keyless(stranger(request.scope))
    record.permit = permit = await services_of(request).admission.admit(record.caller)
    return permit


def _refuse_when_draining(request: Request) -> None:
    if services_of(request).readiness.phase is Phase.DRAINING:
        raise Draining


def idempotency_key_of(request: Request) -> str | None:
    """The Idempotency-Key. Raises InvalidRequest unless it is 1 to 255 printable ASCII characters."""
    key = record_of(request.scope).headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest.at(
            ("Idempotency-Key",),
            f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters",
        )
    return key
