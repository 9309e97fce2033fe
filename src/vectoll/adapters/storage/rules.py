"""The ledger's rules as pure functions, so that every adapter refuses the same things in the same words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vectoll.adapters.storage.times import to_micros
from vectoll.domain.allowances import Day
from vectoll.domain.errors import (
    Forbidden,
    IdempotencyConflict,
    InsufficientBalance,
    InvalidRequest,
    SpendLimitReached,
    Unavailable,
)
from vectoll.domain.identity import ApiKey, LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId, parse_text
from vectoll.domain.ledger import Hold, Transfer, TransferCode, is_system, kind_of, system_account
from vectoll.domain.money import MAX_AMOUNT, ZERO, Amount, format_usd
from vectoll.ports.ledger import UsageQuery

TRAILING_DAYS = 7
UNDELIVERED = "the answer was not delivered"
"""The note of a refund: why the charge was given back."""
_FROM_HOLDS = (TransferCode.CHARGE, TransferCode.ALLOWANCE)


def charged_amount(hold: Hold, tokens: int) -> Amount:
    """The price of what was used. Raises ValueError for more than the hold's quote."""
    if not 0 <= tokens <= hold.quote.tokens:
        raise ValueError(f"a hold of {hold.quote.tokens} tokens cannot be charged {tokens}")
    return hold.quote.price.of(tokens)


def charge_of(hold: Hold, tokens: int, duration_ms: int, now: datetime, seq: int = 0) -> Transfer:
    """The transfer that charges ``tokens`` of a hold. ``seq`` is the store's guess at its number."""
    return Transfer(
        id=hold.id,
        debit=hold.principal.account,
        credit=system_account("revenue", now),
        amount=charged_amount(hold, tokens),
        code=TransferCode.CHARGE,
        created_at=now,
        request_id=hold.request_id,
        key=hold.principal.key,
        model=hold.quote.model,
        tokens=tokens,
        duration_ms=duration_ms,
        fingerprint=hold.fingerprint,
        seq=seq,
    )


def allowance_id(charge: TransferId) -> TransferId:
    """The id of the transfer by which a day's allowance pays its part of a charge."""
    return TransferId(f"{charge}.allowance")


def allowance_part(charge: Transfer, left: int, balance: int, day: Day) -> Transfer | None:
    """The transfer by which a day's allowance, with ``left`` in it, pays its part of a charge; None for no part."""
    amount = min(left, charge.amount, MAX_AMOUNT - balance)
    if amount <= 0:
        return None
    return Transfer(
        id=allowance_id(charge.id),
        debit=system_account("allowance", charge.created_at),
        credit=charge.debit,
        amount=Amount(amount),
        code=TransferCode.ALLOWANCE,
        created_at=charge.created_at,
        request_id=charge.request_id,
        note=day,
    )


def given_back(charge: Transfer, part: Transfer | None) -> tuple[Transfer, ...]:
    """The transfers that give back a charge whose answer was not delivered; their ids make them apply once.

    The whole price goes to the account, and from there the allowance's ``part`` goes back to its day.
    """
    refund = Transfer(
        id=TransferId(f"undelivered_{charge.id}"),
        debit=charge.credit,
        credit=charge.debit,
        amount=charge.amount,
        code=TransferCode.REFUND,
        created_at=charge.created_at,
        request_id=charge.request_id,
        note=UNDELIVERED,
    )
    if part is None:
        return (refund,)
    return refund, replace(part, id=allowance_id(refund.id), debit=part.credit, credit=part.debit)


def check_holder(account: AccountId) -> None:
    """Raises Forbidden for the house's own accounts, whose balance has no floor."""
    if is_system(account):
        raise Forbidden("An account id that starts with '$' is reserved.")


def check_key(key: ApiKey) -> None:
    """Raises Forbidden for a key of the house's own accounts, InvalidRequest for a name that cannot be stored."""
    check_holder(key.account)
    try:
        parse_text(key.name)
    except ValueError as error:
        raise InvalidRequest(f"a name {error}") from None


def earlier_charge(existing: Transfer, hold: Hold) -> Transfer:
    """``existing``, stored under a hold's id, if it is the same request's charge. Raises IdempotencyConflict if not."""
    same_account = existing.code is TransferCode.CHARGE and existing.debit == hold.principal.account
    if not same_account or existing.fingerprint != hold.fingerprint:
        raise IdempotencyConflict
    return existing


def earlier_post(existing: Transfer, transfer: Transfer) -> Transfer:
    """``existing``, stored under a transfer's id, if it moved the same. Raises IdempotencyConflict if not.

    A repetition in another month names another of the house's accounts, and is still the same.
    """
    if _movement(existing) != _movement(transfer):
        raise IdempotencyConflict
    return existing


def _movement(transfer: Transfer) -> tuple[str, str, Amount, TransferCode]:
    return kind_of(transfer.debit), kind_of(transfer.credit), transfer.amount, transfer.code


def check_post(transfer: Transfer) -> None:
    """Raises InvalidRequest for a transfer that no ledger may hold."""
    if transfer.code in _FROM_HOLDS:
        raise InvalidRequest("a charge is made from a hold, not posted")
    if transfer.debit == transfer.credit:
        raise InvalidRequest("a transfer needs two different accounts")
    if not transfer.debit or not transfer.credit:
        raise InvalidRequest("a transfer needs the ids of both accounts")
    if not 0 <= transfer.amount <= MAX_AMOUNT:
        raise InvalidRequest(f"an amount must be between $0 and ${format_usd(MAX_AMOUNT, decimals=0)}")
    if transfer.tokens < 0:
        raise InvalidRequest("a number of tokens cannot be negative")


def check_query(query: UsageQuery) -> None:
    """Raises InvalidRequest for a page size or cursor that is out of range."""
    if query.limit < 1:
        raise InvalidRequest("limit must be at least 1")
    if query.after_seq < 0:
        raise InvalidRequest("the cursor must not be negative")


def check_movement(transfer: Transfer, debit_balance: int, credit_balance: int) -> None:
    """Make sure that a transfer may be applied to these balances.

    Raises InsufficientBalance when the debited customer has too little; when a balance would leave
    ±``MAX_AMOUNT``, InvalidRequest for a post and Unavailable for a charge, as that is not its caller's fault.
    """
    if not is_system(transfer.debit) and debit_balance < transfer.amount:
        raise InsufficientBalance(transfer.amount, Amount(debit_balance))
    for account, after in (
        (transfer.debit, debit_balance - transfer.amount),
        (transfer.credit, credit_balance + transfer.amount),
    ):
        if abs(after) > MAX_AMOUNT:
            message = f"the account {account} cannot hold more than ${format_usd(MAX_AMOUNT, decimals=0)}"
            raise Unavailable(message) if transfer.code in _FROM_HOLDS else InvalidRequest(message)


def check_limit(limit: SpendLimit, spent: int, amount: int) -> None:
    """Raises SpendLimitReached when ``amount`` more does not fit."""
    if spent + amount > limit.amount:
        raise SpendLimitReached(limit.amount, Amount(spent))


KEY_SPENT_ALL = "This API key has spent all that can be counted. Create another one."


def check_countable(spent: int) -> None:
    """Raises Unavailable where a key's spend would exceed ``MAX_AMOUNT``, the most that is counted."""
    if spent > MAX_AMOUNT:
        raise Unavailable(KEY_SPENT_ALL)


def limited_key(hold: Hold) -> tuple[KeyId, SpendLimit] | None:
    """The key and limit that a hold counts against. A limit without a key limits nothing."""
    principal = hold.principal
    if principal.key is None or principal.limit is None:
        return None
    return principal.key, principal.limit


def period_of(limit: SpendLimit | None, now: datetime) -> tuple[LimitPeriod, int]:
    """The period that a limit counts in, and its start in microseconds; all time where there is no limit."""
    period = LimitPeriod.LIFETIME if limit is None else limit.period
    return period, to_micros(period.start(now.astimezone(UTC)))


def trailing_days(now: datetime) -> tuple[datetime, ...]:
    """The starts of the seven UTC days that end with the day of ``now``."""
    today = LimitPeriod.EPOCH.start(now.astimezone(UTC))
    return tuple(today - timedelta(days=n) for n in range(TRAILING_DAYS))


def available(balance: int, held: int) -> Amount:
    """What a hold may take, never shown below zero."""
    return Amount(max(ZERO, balance - held))
