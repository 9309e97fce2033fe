"""An account's movements in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime

from vectoll.adapters.storage.postgres.database import LONG_S, Database, sql
from vectoll.adapters.storage.rows import to_transfer
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId
from vectoll.domain.money import ZERO, Amount
from vectoll.ports.history import ChargeTotal, HistoryPage, history_page, largest_first


class PostgresHistory:
    """See ``vectoll.ports.history.AccountHistory``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, account: AccountId, limit: int, offset: int) -> HistoryPage:
        """A page, newest first, from one snapshot."""
        rows = await self._database.read(account, "newest_transfers", account, offset + limit + 1)
        balance = Amount(rows[0][-1]) if rows else ZERO
        return history_page([to_transfer(row) for row in rows], account, balance, limit, offset)

    async def charge_totals(self, start: datetime, account: AccountId | None = None) -> Sequence[ChargeTotal]:
        """Sums by account, key and model."""
        of_whom = () if account is None else (account,)
        name = "charge_totals" if account is None else "charge_totals_of_account"
        async with self._database.snapshot() as db:
            rows = await db.fetch(sql(name), to_micros(start), *of_whom, timeout=LONG_S)
        return largest_first(
            ChargeTotal(debit, key, model, requests, int(tokens), Amount(int(amount)))
            for debit, key, model, requests, tokens, amount in rows
        )
