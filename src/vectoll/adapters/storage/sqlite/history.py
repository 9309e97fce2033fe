"""An account's movements in SQLite: a chain of transfers in pages (migration 6)."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime

from vectoll.adapters.storage.rows import Row, to_transfer
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.rows import read_balance
from vectoll.adapters.storage.sqlite.work import PAGE
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Amount
from vectoll.ports.history import ChargeTotal, HistoryPage, history_page, largest_first
from vectoll.ports.ledger import Funds, PaidCharge, UsageQuery

_BEGINNING, _END = -(2**63), 2**63 - 1

PAGES = 512
"""Pages of a history that one statement looks up."""

Parameters = dict[str, object]


class SqliteHistory:
    """See ``vectoll.ports.history.AccountHistory``."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """A page, newest first, from one snapshot."""
        return await self._reader.read_in_turn(
            account,
            lambda db: _newest_page(db, account, limit, offset),
        )

    async def charge_totals(self, start: datetime, account: AccountId | None = None) -> Sequence[ChargeTotal]:
        """Sums by account, key and model."""
        return await self._reader.read_in_thread(lambda db: largest_first(_totals(db, start, account)))


def usage(db: sqlite3.Connection, query: UsageQuery) -> Sequence[Transfer]:
    """A page of an account's transfers."""
    rows = _oldest_first(db, "usage", query, {"code": None if query.code is None else query.code.value})
    return [to_transfer(row) for row in rows]


def charges(db: sqlite3.Connection, query: UsageQuery, funds: Funds | None) -> Sequence[PaidCharge]:
    """A page of an account's charges."""
    rows = _oldest_first(db, "charges", query, {"funds": funds})
    return [PaidCharge(to_transfer(row[:-1]), Amount(row[-1])) for row in rows]


def _oldest_first(
    db: sqlite3.Connection, statement: str, query: UsageQuery, condition: dict[str, str | None]
) -> Sequence[Row]:
    """The first rows that fulfil the query, read from one page of the account's history after the other.

    Each page is a statement by itself, outside any transaction: stored transfers never change, and while a snapshot is
    open SQLite's log cannot start over, so it would grow by all that is committed meanwhile.
    """
    parameters = condition | {
        "account": query.account,
        "after_seq": query.after_seq,
        "start": _BEGINNING if query.start is None else to_micros(query.start),
        "end": _END if query.end is None else to_micros(query.end),
    }
    rows: list[Row] = []
    for page in _pages(db, parameters):
        rows += _page(db, statement, page)
        if len(rows) >= query.limit:
            break
    return rows[: query.limit]


def _pages(db: sqlite3.Connection, parameters: Parameters) -> Iterator[Parameters]:
    """Each page's parameters, oldest first."""
    while True:
        found = db.execute(sql("pages"), parameters | {"page": PAGE, "many": PAGES}).fetchall()
        for last_seq, size in found:
            yield parameters | {"last_seq": last_seq, "size": size}
        if len(found) < PAGES:
            return
        # the newest page may have grown since: what of it was read is not read again
        parameters = parameters | {"after_seq": found[-1][0]}


def _newest_page(db: sqlite3.Connection, account: AccountId, limit: int, offset: int) -> HistoryPage:
    db.execute("BEGIN")
    newest, balance = _newest(db, account, offset + limit + 1), read_balance(db, account)
    return history_page(newest, account, balance, limit, offset)


def _newest(db: sqlite3.Connection, account: AccountId, count: int) -> Sequence[Transfer]:
    _, _, last_seq, *_ = db.execute(sql("account"), (account,)).fetchone() or (0, 0, 0)
    parameters: Parameters = {
        "account": account,
        "after_seq": 0,
        "start": _BEGINNING,
        "end": _END,
        "code": None,
    }
    parameters |= {"last_seq": last_seq, "size": count}
    return [to_transfer(row) for row in _page(db, "usage", parameters)][::-1]


def _page(db: sqlite3.Connection, statement: str, parameters: Parameters) -> Iterator[Row]:
    return db.execute(f"{sql('page')}\n{sql(statement)}", parameters)


def _totals(db: sqlite3.Connection, start: datetime, account: AccountId | None) -> Iterator[ChargeTotal]:
    """SQLite's sum() fails beyond 64 bits, which many months may pass: halves of 32 bits are summed."""
    name = "charge_totals" if account is None else "charge_totals_of_account"
    rows = db.execute(sql(name), {"start": to_micros(start), "account": account, "page": PAGE})
    for debit, key, model, requests, tokens, high, low in rows:
        yield ChargeTotal(debit, key, model, requests, tokens, Amount((high << 32) + low))
