"""Where errors become requests to pay, and what a wallet's answers carry."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import Request
from starlette.types import Scope

from vectoll.domain.errors import (
    InsufficientBalance,
    NoCredentials,
    NotFound,
    RateLimited,
    Unavailable,
    VectollError,
    WalletBalanceTooLow,
)
from vectoll.domain.money import format_usd
from vectoll.domain.payments import PaymentRefused
from vectoll.http.record import record_of, route_template
from vectoll.http.schemas_x402 import PaymentError
from vectoll.http.services import Services, services_of

_TOP_UP = "/x402/top-up"
_PAID_FOR = "/embeddings"


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """A 402: the spec's body, and the headers that x402 clients read."""

    body: Any
    headers: dict[str, str]


def payment_request(scope: Scope, error: VectollError) -> PaymentRequest | None:
    """The 402 that an error becomes where wallets can pay; None where it stays what it is."""
    wallets = _services(scope).wallets
    if wallets is None or not route_template(scope).endswith(_PAID_FOR):
        return None
    path, now = scope["path"], _services(scope).clock.now()
    if isinstance(error, NoCredentials):
        body: Any = wallets.terms.discovery(path, now)
    elif _lacks_credit(scope, error):
        balance = cast(InsufficientBalance | WalletBalanceTooLow, error).available
        body = wallets.terms.wallet_payment_required(path, now, balance, str(error))
    else:
        return None
    return PaymentRequest(body, {"payment-required": wallets.terms.header(path, now)})


def wallets_sign_in(scope: Scope) -> bool:
    """Whether a wallet's sign-in is a credential on this server."""
    return _services(scope).wallets is not None


def _lacks_credit(scope: Scope, error: VectollError) -> bool:
    """Whether a wallet, as opposed to an API key, has too little credit."""
    principal = record_of(scope).principal
    is_wallet = principal is not None and principal.wallet is not None
    return is_wallet and isinstance(error, InsufficientBalance | WalletBalanceTooLow)


def is_top_up(scope: Scope) -> bool:
    """Whether the answer is to a payment."""
    return route_template(scope).endswith(_TOP_UP)


def payment_error_body(error: VectollError) -> PaymentError | dict[str, Any]:
    """The neighbour's shape: ``error`` is the code, except for the statuses that it draws as StandardError."""
    if isinstance(error, NotFound | RateLimited | Unavailable):
        return {"error": str(error), "code": error.code}
    details = {"reason": error.reason} if isinstance(error, PaymentRefused) else None
    return PaymentError(error.code, str(error), details)


def settlement_headers(scope: Scope) -> dict[str, str]:
    """How this request's payment went, where it paid: it did, whatever becomes of the request itself."""
    settlement = record_of(scope).settlement
    return {} if settlement is None else {"payment-response": settlement}


async def wallet_headers(request: Request) -> dict[str, str]:
    """What is left of a wallet's credit, and how its payment went; nothing for an API key.

    The answer has been paid for: where the credit cannot be read now, it goes out without.
    """
    record = record_of(request.scope)
    headers = settlement_headers(request.scope)
    if record.principal is not None and record.principal.wallet is not None:
        with suppress(Unavailable):
            balance = (await services_of(request).ledger.balance(record.principal.account)).balance
            headers["x-balance-remaining"] = format_usd(balance)
    return headers


def _services(scope: Scope) -> Services:
    return cast(Services, scope["app"].services)
