"""Sign-in nonces in PostgreSQL: a primary key decides who was first, whichever gateway was asked."""

from datetime import datetime

from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.ids import AccountId


class PostgresNonces:
    """See ``vectoll.ports.nonces.NonceStore`` for what it promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def consume(
        self,
        wallet: AccountId,
        nonce: str,
        now: datetime,  # noqa: ARG002  the database's clock says what has lapsed, whatever a gateway's does
        good_until: datetime,
    ) -> bool:
        """True for the first use of this wallet's nonce, durably.

        When the connection is lost on the way the nonce may be used up, and the caller has to sign in anew.
        """
        row = wallet, nonce, to_micros(good_until)
        return bool(await self._database.fetch("consume_nonce", *row, is_repeatable=False))
