"""Rows to values and back."""

import sqlite3
from typing import Any

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.times import from_micros, to_micros
from vectoll.domain.identity import ApiKey, KeyKind, LimitPeriod, SpendLimit
from vectoll.domain.ids import AccountId, KeyId, TransferId
from vectoll.domain.ledger import Transfer, TransferCode
from vectoll.domain.money import ZERO, Amount

Row = tuple[Any, ...]


def read_balance(connection: sqlite3.Connection, account: AccountId) -> Amount:
    """What is committed for an account; zero for one that does not exist."""
    row = connection.execute(sql("balance"), (account,)).fetchone()
    return row[0] if row else ZERO


def read_transfer(connection: sqlite3.Connection, transfer_id: TransferId) -> Transfer | None:
    """One transfer by id."""
    row = connection.execute(sql("transfer"), (transfer_id,)).fetchone()
    return to_transfer(row) if row else None


def to_transfer(row: Row) -> Transfer:
    """From the columns of ``-- name: transfer``."""
    transfer_id, debit, credit, amount, code, created_at, *rest = row
    return Transfer(transfer_id, debit, credit, amount, TransferCode(code), from_micros(created_at), *rest)


def from_transfer(transfer: Transfer) -> Row:
    """The parameters of ``-- name: insert_transfer``."""
    return (
        transfer.id,
        transfer.debit,
        transfer.credit,
        transfer.amount,
        transfer.code.value,
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


def from_key(key: ApiKey) -> Row:
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
        int(key.is_pro),
    )
