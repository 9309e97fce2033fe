"""An account's movements in SQLite."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime

from vectoll.adapters.storage.rows import to_transfer
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.rows import read_balance
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.ports.history import ChargeTotal, HistoryPage, history_page, largest_first


class SqliteHistory:
    """See ``vectoll.ports.history.AccountHistory``."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """A page, newest first, from one snapshot."""
        parameters = {"account": account, "limit": offset + limit + 1}
        return await self._reader.read_in_thread(
            lambda db: history_page(
                [to_transfer(row) for row in db.execute(sql("newest_transfers"), parameters)],
                account,
                read_balance(db, account),
                limit,
                offset,
            )
        )

    async def charge_totals(self, start: datetime, account: AccountId | None = None) -> Sequence[ChargeTotal]:
        """Sums by account, key and model."""
        return await self._reader.read_in_thread(lambda db: largest_first(_totals(db, start, account)))


def _totals(db: sqlite3.Connection, start: datetime, account: AccountId | None) -> Iterator[ChargeTotal]:
    """SQLite's sum() fails beyond 64 bits, which many months may pass: halves of 32 bits are summed."""
    name = "charge_totals" if account is None else "charge_totals_of_account"
    rows = db.execute(sql(name), {"start": to_micros(start), "account": account})
    for debit, key, model, requests, tokens, high, low in rows:
        yield ChargeTotal(debit, key, model, requests, tokens, Amount((high << 32) + low))
