"""An account's movements in SQLite."""

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.rows import read_balance, to_transfer
from vectoll.domain.ids import AccountId
from vectoll.ports.history import HistoryPage, history_page


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
