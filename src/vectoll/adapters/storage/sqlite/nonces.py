"""Sign-in nonces in SQLite: a primary key decides who was first."""

from datetime import datetime

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId


class SqliteNonces:
    """See ``vectoll.ports.nonces.NonceStore`` for what it promises."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the first use of this wallet's nonce, durably."""

        def consume(work: Work) -> bool:
            work.connection.execute(sql("forget_nonces"), (to_micros(now),))
            row = (wallet, nonce, to_micros(good_until))
            return work.connection.execute(sql("consume_nonce"), row).rowcount == 1

        return await self._writer.submit(consume, moves_funds=False)
