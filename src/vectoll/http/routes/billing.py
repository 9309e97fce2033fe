"""GET /billing/balance and GET /billing/usage-history."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal, get_args

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.errors import InvalidRequest
from vectoll.domain.ids import AccountId
from vectoll.domain.instants import format_instant, parse_instant
from vectoll.domain.ledger import Balance, Transfer
from vectoll.domain.money import Amount, Price, format_usd, to_decimal
from vectoll.http.cursor import MAX_PAGE, MIN_PAGE, Currency, Walk, read_cursor, write_cursor
from vectoll.http.entry import admit_to_account
from vectoll.http.preferences import preferences
from vectoll.http.record import record_of
from vectoll.http.responses import json_response
from vectoll.http.schemas_account import (
    BillingBalance,
    CurrencyBalances,
    InferenceDetails,
    UsageEntry,
    UsageHistory,
)
from vectoll.http.services import services_of
from vectoll.ports.ledger import Funds, Ledger, PaidCharge, UsageQuery

CURRENCIES: tuple[Currency, ...] = get_args(Currency)
_FUNDS = {"USD": Funds.CREDIT, "DIEM": Funds.ALLOWANCE}
_SHARE = Decimal("1e-12")
"""To how many millions of tokens the parts of a charge that was paid from two sources are rounded."""

_FILTERS = ("currency", "endTimestamp", "pageSize", "startTimestamp")
_CSV_COLUMNS = (
    "timestamp",
    "sku",
    "pricePerUnitUsd",
    "units",
    "amount",
    "currency",
    "notes",
    "requestId",
    "promptTokens",
    "inferenceExecutionTime",
)


async def get_balance(request: Request) -> Response:
    """What the account can still spend: allowance and credit, less what requests in flight have set aside."""
    principal, permit = await admit_to_account(request)
    with permit:
        balance = await services_of(request).ledger.balance(principal.account)
    return json_response(
        BillingBalance(
            balances=CurrencyBalances(
                usd=Decimal(format_usd(balance.available_credit)),
                diem=Decimal(format_usd(balance.available_allowance)) if balance.granted else None,
            ),
            canConsume=balance.available > 0,
            consumptionCurrency=_currency(balance),
            diemEpochAllocation=Decimal(format_usd(balance.granted)),
        )
    )


def _currency(balance: Balance) -> Literal["USD", "DIEM"] | None:
    """What the next request is paid with first."""
    if balance.available_allowance > 0:
        return "DIEM"
    return "USD" if balance.available > 0 else None


async def get_usage_history(request: Request) -> Response:
    """A page of the account's charges, oldest first, as JSON or, where Accept asks for text/csv, as CSV."""
    principal, permit = await admit_to_account(request)
    services = services_of(request)
    with permit:
        walk = _walk(request.query_params, principal.account)
        entries, rest = await _page(services.ledger, walk, principal.account)
    cursor = write_cursor(rest, principal.account) if rest else None
    if preferences(record_of(request.scope).headers.get("accept", "")).get("text/csv", 0) > 0:
        return _csv_response(entries, cursor, services.clock.now())
    return json_response(UsageHistory(entries, cursor))


def _walk(query: QueryParams, account: AccountId) -> Walk:
    """The walk to begin or to continue. Raises InvalidRequest."""
    token = query.get("cursor")
    if token is None:
        return _first_walk(query)
    for name in _FILTERS:
        if name in query:
            raise InvalidRequest.at((name,), f"{name} travels inside the cursor: send the cursor alone")
    return read_cursor(token, account)


def _first_walk(query: QueryParams) -> Walk:
    start, end = _instant(query, "startTimestamp"), _instant(query, "endTimestamp")
    if start is not None and end is not None and start >= end:
        raise InvalidRequest.at(("endTimestamp",), "endTimestamp must be later than startTimestamp")
    currency = query.get("currency")
    if currency is not None and currency not in CURRENCIES:
        raise InvalidRequest.at(("currency",), f"currency must be one of {', '.join(CURRENCIES)}")
    return Walk(_page_size(query.get("pageSize", str(MAX_PAGE))), 0, start, end, currency)


def _instant(query: QueryParams, name: str) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    instant = parse_instant(text)
    if instant is None:
        raise InvalidRequest.at((name,), f"{name} must be an instant like 2026-06-01T00:00:00Z")
    return instant


def _page_size(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and MIN_PAGE <= int(text) <= MAX_PAGE:
        return int(text)
    raise InvalidRequest.at(("pageSize",), f"pageSize must be an integer from {MIN_PAGE} to {MAX_PAGE}")


async def _page(ledger: Ledger, walk: Walk, account: AccountId) -> tuple[list[UsageEntry], Walk | None]:
    """The entries of a page, and the walk that continues behind it, where there are more.

    The entries of one charge stay together, so a page may be one entry short.
    """
    if walk.currency is not None and walk.currency not in _FUNDS:
        return [], None
    funds = _FUNDS[walk.currency] if walk.currency else None
    query = UsageQuery(account, walk.after_seq, walk.start, walk.end, limit=walk.page_size + 1)
    entries: list[UsageEntry] = []
    for paid in await ledger.charges(query, funds):
        more = _entries(paid, funds)
        if len(entries) + len(more) > walk.page_size:
            return entries, walk
        entries += more
        walk = msgspec.structs.replace(walk, after_seq=paid.charge.seq)
    return entries, None


def _entries(paid: PaidCharge, wanted: Funds | None) -> list[UsageEntry]:
    """What each kind of funds paid of a charge, the allowance first, as it is spent."""
    tokens, amount = paid.charge.tokens, paid.charge.amount
    used = Decimal(tokens).scaleb(-6)
    from_allowance = Decimal(0)
    if paid.allowance:
        from_allowance = (used * paid.allowance / amount).quantize(_SHARE) if paid.credit else used
    found = []
    if paid.is_paid_from(Funds.ALLOWANCE) and wanted is not Funds.CREDIT:
        found.append(_entry(paid.charge, "DIEM", paid.allowance, from_allowance))
    if paid.is_paid_from(Funds.CREDIT) and wanted is not Funds.ALLOWANCE:
        found.append(_entry(paid.charge, "USD", paid.credit, used - from_allowance))
    return found


def _entry(charge: Transfer, currency: Literal["USD", "DIEM"], amount: Amount, units: Decimal) -> UsageEntry:
    units_per_token = charge.amount // charge.tokens if charge.tokens else 0
    return UsageEntry(
        amount=-to_decimal(amount),
        currency=currency,
        inferenceDetails=InferenceDetails(
            inferenceExecutionTime=charge.duration_ms,
            promptTokens=charge.tokens,
            requestId=charge.request_id or "",
        ),
        pricePerUnitUsd=Price(units_per_token).usd_per_million,
        sku=f"{charge.model}-embedding-input-mtoken",
        timestamp=format_instant(charge.created_at),
        units=units,
    )


def _csv_response(entries: Sequence[UsageEntry], cursor: str | None, now: datetime) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV_COLUMNS)
    writer.writerows(map(_csv_row, entries))
    stamp = now.strftime("%Y%m%dT%H%M%S") + f"{now.microsecond // 1000:03d}Z"
    headers = {"content-disposition": f"attachment; filename=billing-usage-history-{stamp}.csv"}
    if cursor is not None:
        headers["x-next-cursor"] = cursor
    return Response(text.getvalue(), headers=headers, media_type="text/csv")


def _csv_row(entry: UsageEntry) -> Sequence[object]:
    details = entry.inferenceDetails
    return (
        entry.timestamp,
        entry.sku,
        f"{entry.pricePerUnitUsd:f}",
        f"{entry.units:f}",
        f"{entry.amount:f}",
        entry.currency,
        entry.notes,
        details.requestId,
        details.promptTokens,
        details.inferenceExecutionTime,
    )
