"""/x402: wallets top up, and see their credit and its history."""

from msgspec import UNSET
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from vectoll.core.payment_header import payment_header
from vectoll.domain.errors import Forbidden, InvalidRequest, NotFound, RateLimited, Unauthenticated
from vectoll.domain.identity import Principal
from vectoll.domain.instants import format_instant
from vectoll.domain.money import to_decimal
from vectoll.domain.payments import MIN_TOP_UP, MIN_WALLET_BALANCE, SUGGESTED_TOP_UP, usdc_amount
from vectoll.domain.wallets import WalletAddress, parse_wallet
from vectoll.http import schemas_x402 as schemas
from vectoll.http.entry import admit_stranger, admit_to_account
from vectoll.http.payment_required import settlement_header
from vectoll.http.record import record_of
from vectoll.http.responses import json_response
from vectoll.http.services import WalletServices, services_of
from vectoll.ports.history import HistoryEntry

DEFAULT_PAGE, MAX_PAGE, MAX_OFFSET = 50, 100, 100_000


async def top_up(request: Request) -> Response:
    """Settle the payment in the header; without one, say how to pay.

    Other credentials are looked at only when the payment was credited before, and comes from another client than then:
    the balance is for its payer alone.
    """
    wallets = _wallets(request)
    permit = await admit_stranger(request)
    with permit:
        await permit.take_request()
        header = payment_header(request.headers)
        if header is None:
            asked = json_response(wallets.terms.top_up_discovery(), 402)
            now = services_of(request).clock.now()
            asked.headers["payment-required"] = wallets.terms.header(request.scope["path"], now)
            return asked
        outcome = await wallets.top_ups.top_up(header, permit.caller.key)
        is_payer = outcome.is_from_sender or await _is_signed_in_as(
            request, permit.caller.key, outcome.intent.payer
        )
    intent = outcome.intent
    result = schemas.TopUpResult(
        walletAddress=intent.payer,
        amountCredited=to_decimal(usdc_amount(intent.base_units)),
        newBalance=to_decimal(intent.balance_after or usdc_amount(0)) if is_payer else UNSET,
        paymentId=intent.id,
    )
    response = json_response(schemas.TopUpResponse(result))
    response.headers["payment-response"] = settlement_header(intent)
    return response


async def _is_signed_in_as(request: Request, client: str, payer: str) -> bool:
    """Whether the caller proves to be the payer: a payment's signature is on the chain for everybody to copy."""
    try:
        principal = await services_of(request).auth.identify_if_any(record_of(request.scope).headers, client)
    except (Unauthenticated, RateLimited):
        return False
    return principal is not None and principal.account == payer


async def get_balance(request: Request) -> Response:
    """The signed-in wallet's credit, and what is left of today's allowance where it has one."""
    _wallets(request)
    principal, permit = await admit_to_account(request)
    with permit:
        wallet = _own_wallet(request, principal)
        balance = await services_of(request).ledger.balance(wallet.account)
    return json_response(
        schemas.WalletBalanceResponse(
            schemas.WalletBalance(
                walletAddress=wallet.text,
                balanceUsd=to_decimal(balance.balance),
                canConsume=balance.total >= MIN_WALLET_BALANCE,
                minimumTopUpUsd=to_decimal(MIN_TOP_UP),
                suggestedTopUpUsd=to_decimal(SUGGESTED_TOP_UP),
                diemBalanceUsd=to_decimal(balance.allowance) if balance.granted else UNSET,
            )
        )
    )


async def get_transactions(request: Request) -> Response:
    """A page of the signed-in wallet's history, newest first."""
    history = _wallets(request).history
    principal, permit = await admit_to_account(request)
    with permit:
        wallet = _own_wallet(request, principal)
        limit = _integer(request.query_params, "limit", DEFAULT_PAGE, least=1, most=MAX_PAGE)
        offset = _integer(request.query_params, "offset", 0, least=0, most=MAX_OFFSET)
        page = await history.page(wallet.account, limit, offset)
    return json_response(
        schemas.WalletTransactionsResponse(
            schemas.WalletTransactions(
                walletAddress=wallet.text,
                currentBalance=to_decimal(page.balance),
                transactions=[_transaction(entry) for entry in page.entries],
                pagination=schemas.Pagination(limit, offset, page.has_more),
            )
        )
    )


def _wallets(request: Request) -> WalletServices:
    """Raises NotFound where wallets cannot pay."""
    wallets = services_of(request).wallets
    if wallets is None:
        raise NotFound("Payments by wallet are not enabled on this server.")
    return wallets


def _own_wallet(request: Request, principal: Principal) -> WalletAddress:
    """The wallet that the path names. Raises InvalidRequest, and Forbidden unless it is the caller's own."""
    try:
        wallet = parse_wallet(request.path_params["wallet"])
    except ValueError:
        raise InvalidRequest.at(
            ("walletAddress",), "walletAddress must be an EVM or Solana address"
        ) from None
    if wallet.account != principal.account:
        raise Forbidden("The signed-in wallet is not the one that the path names.")
    return wallet


def _integer(query: QueryParams, name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None or (text == "" and least == 0):
        return default
    if text.isascii() and text.isdigit() and len(text) <= 6 and least <= int(text) <= most:
        return int(text)
    raise InvalidRequest.at((name,), f"{name} must be an integer from {least} to {most}")


def _transaction(entry: HistoryEntry) -> schemas.WalletTransaction:
    transfer = entry.transfer
    return schemas.WalletTransaction(
        id=transfer.id,
        amount=to_decimal(entry.amount),
        balanceAfter=to_decimal(entry.balance_after),
        type=transfer.code.value,
        createdAt=format_instant(transfer.created_at),
        requestId=transfer.request_id,
        modelId=transfer.model,
    )
