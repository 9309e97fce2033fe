"""Rows to values and back, for every database: the columns have one order, named in each function."""

from collections.abc import Sequence
from typing import Any

from vectoll.adapters.storage.times import from_micros, to_micros
from vectoll.domain.identity import ApiKey, KeyKind, LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.ledger import Transfer, TransferCode
from vectoll.domain.money import Amount
from vectoll.domain.payments import Intent, IntentState

Row = Sequence[Any]

_CODES = {code: code.value for code in TransferCode}
"""An enum's ``value`` is a function in Python 3.11, and a subclass of str is adapted before it is stored."""


def to_transfer(row: Row) -> Transfer:
    """From the columns of ``-- name: transfer``; more that follow are ignored."""
    transfer_id, debit, credit, amount, code, created_at, *rest = row
    return Transfer(
        transfer_id, debit, credit, amount, TransferCode(code), from_micros(created_at), *rest[:8]
    )


def from_transfer(transfer: Transfer) -> tuple[Any, ...]:
    """The same columns without ``seq``: the parameters of an insert."""
    return (
        transfer.id,
        transfer.debit,
        transfer.credit,
        transfer.amount,
        _CODES[transfer.code],
        to_micros(transfer.created_at),
        transfer.request_id,
        transfer.key,
        transfer.model,
        transfer.tokens,
        transfer.duration_ms,
        transfer.fingerprint,
        transfer.note,
    )


def to_key(row: Row) -> ApiKey:
    """From the columns of ``-- name: key_by_id``."""
    limit_amount, limit_period = row[10:12]
    return ApiKey(
        id=KeyId(row[0]),
        account=AccountId(row[1]),
        kind=KeyKind(row[2]),
        name=row[3],
        digest=row[4],
        prefix=row[5],
        last6=row[6],
        created_at=from_micros(row[7]),
        expires_at=None if row[8] is None else from_micros(row[8]),
        revoked_at=None if row[9] is None else from_micros(row[9]),
        limit=None if limit_amount is None else SpendLimit(Amount(limit_amount), LimitPeriod(limit_period)),
        is_pro=bool(row[12]),
    )


def from_key(key: ApiKey) -> tuple[Any, ...]:
    """The parameters of ``-- name: insert_key``."""
    return (
        key.id,
        key.account,
        key.kind.value,
        key.name,
        key.digest,
        key.prefix,
        key.last6,
        to_micros(key.created_at),
        None if key.expires_at is None else to_micros(key.expires_at),
        None if key.revoked_at is None else to_micros(key.revoked_at),
        None if key.limit is None else key.limit.amount,
        None if key.limit is None else key.limit.period.value,
        key.is_pro,
    )


def to_intent(row: Row) -> Intent:
    """From the columns of ``-- name: payment``."""
    return Intent(
        id=row[0],
        network=row[1],
        payer=row[2],
        base_units=row[3],
        payload=row[4],
        state=IntentState(row[5]),
        created_at=from_micros(row[6]),
        updated_at=from_micros(row[7]),
        since_block=row[8],
        tx=row[9],
        raw_tx=row[10],
        log_index=row[11],
        is_final=bool(row[12]),
        balance_after=None if row[13] is None else Amount(row[13]),
        reason=row[14],
        version=row[15],
    )


def from_intent(intent: Intent) -> tuple[Any, ...]:
    """The same columns; those from ``base_units`` on may change."""
    return (
        intent.id,
        intent.network,
        intent.payer,
        intent.base_units,
        intent.payload,
        intent.state.value,
        to_micros(intent.created_at),
        to_micros(intent.updated_at),
        intent.since_block,
        intent.tx,
        intent.raw_tx,
        intent.log_index,
        intent.is_final,
        intent.balance_after,
        intent.reason,
        intent.version,
    )


def changeable(intent: Intent) -> tuple[Any, ...]:
    """What an update may write."""
    return from_intent(intent)[3:]
