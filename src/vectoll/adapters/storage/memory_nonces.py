"""Sign-in nonces in memory: for tests."""

from datetime import datetime

from vectoll.domain.ids import AccountId


class MemoryNonceStore:
    """Forgets what lapsed at the next use."""

    def __init__(self) -> None:
        self._good_until: dict[tuple[AccountId, str], datetime] = {}

    async def consume(self, wallet: AccountId, nonce: str, now: datetime, good_until: datetime) -> bool:
        """True for the first use of this wallet's nonce."""
        self._good_until = {key: until for key, until in self._good_until.items() if until > now}
        if (wallet, nonce) in self._good_until:
            return False
        self._good_until[wallet, nonce] = good_until
        return True
