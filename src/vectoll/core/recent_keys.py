"""Keys that were just looked up, so that a busy caller's every request need not ask the database again."""

import time
from collections.abc import Sequence
from datetime import datetime

from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId, KeyId
from vectoll.ports.keys import KeyStore

REMEMBERED_S = 0.5
"""A key that another process revokes is refused here this much later at most."""
MAX_REMEMBERED = 10_000


class RecentKeys:
    """A KeyStore over another. What is revoked through it is refused at once; strangers' guesses are not kept."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._recent: dict[bytes, tuple[ApiKey, float]] = {}
        self._revocations = 0

    async def add(self, key: ApiKey) -> None:
        """See the port."""
        await self._store.add(key)

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """See the port; the answer may be REMEMBERED_S old."""
        now = time.monotonic()
        remembered = self._recent.get(digest)
        if remembered is not None and now < remembered[1]:
            return remembered[0]
        revocations = self._revocations
        key = await self._store.by_digest(digest)
        if key is not None and revocations == self._revocations:  # else it may be what was read before one
            if len(self._recent) >= MAX_REMEMBERED:
                self._recent.clear()
            self._recent[digest] = key, now + REMEMBERED_S
        return key

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """See the port."""
        return await self._store.get(key_id)

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """See the port."""
        return await self._store.list(account)

    async def active(self, account: AccountId, now: datetime) -> Sequence[ApiKey]:
        """See the port."""
        return await self._store.active(account, now)

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """See the port."""
        try:
            return await self._store.revoke(key_id, now)
        finally:
            self._revocations += 1
            self._recent.clear()
