"""Sign-in nonces in SQLite: a primary key decides who was first."""

import math
from datetime import datetime

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId

FORGET_EVERY_S = 1.0
"""What has lapsed is looked for no more often: with every nonce, it cost more than the nonce."""


class SqliteNonces:
    """See ``vectoll.ports.nonces.NonceStore`` for what it promises."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer
        self._forgot_at = -math.inf

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the first use of this wallet's nonce, durably."""

        def consume(work: Work) -> bool:
            if abs(now.timestamp() - self._forgot_at) >= FORGET_EVERY_S:
                work.connection.execute(sql("forget_nonces"), (to_micros(now),))
                self._forgot_at = now.timestamp()
            row = (wallet, nonce, to_micros(good_until))
            return work.connection.execute(sql("consume_nonce"), row).rowcount == 1

        return await self._writer.submit(consume, moves_funds=False)
