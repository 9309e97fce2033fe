"""Sign-in nonces in SQLite: a primary key decides who was first."""

import math
from datetime import datetime

from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId

FORGET_EVERY_S = 1.0
"""Lapsed nonces are looked for no more often: with every sign-in, that cost more than the sign-in itself."""
FORGET_AT_ONCE = 1000
"""Most that one transaction deletes, as charges wait for it: 2 ms."""
FORGET_ON_AFTER_S = 0.1
"""When the most were deleted there are more to delete."""


class SqliteNonces:
    """See ``vectoll.ports.nonces.NonceStore`` for what it promises."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer
        self._forgot_at = -math.inf
        self._forget_every_s = FORGET_EVERY_S

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the first use of this wallet's nonce, durably."""

        def consume(work: Work) -> bool:
            if abs(now.timestamp() - self._forgot_at) >= self._forget_every_s:
                self._forget(work, now)
            row = (wallet, nonce, to_micros(good_until))
            return work.connection.execute(sql("consume_nonce"), row).rowcount == 1

        return await self._writer.submit(consume, moves_funds=False)

    def _forget(self, work: Work, now: datetime) -> None:
        forgotten = work.connection.execute(sql("forget_nonces"), (to_micros(now), FORGET_AT_ONCE)).rowcount
        self._forgot_at = now.timestamp()
        self._forget_every_s = FORGET_EVERY_S if forgotten < FORGET_AT_ONCE else FORGET_ON_AFTER_S
