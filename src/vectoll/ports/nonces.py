"""Sign-in nonces: each is good once, for all processes and across restarts."""

from datetime import datetime
from typing import Protocol

from vectoll.domain.ids import AccountId


class NonceStore(Protocol):
    """Remembers which nonces were used."""

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the one call that uses this wallet's nonce first, durably, however many race.

        The nonce is remembered at least until ``good_until``; what lapsed before ``now`` may be forgotten.
        """
        ...
