"""Where API keys are stored."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId, KeyId


class KeyStore(Protocol):
    """Keys by digest and by id. A revocation is seen by the next lookup of the store it was made through, and
    within a second everywhere.
    """

    async def add(self, key: ApiKey) -> None:
        """Store a new key, and its account if that is new."""
        ...

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256, revoked and expired ones included."""
        ...

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """The key of this id."""
        ...

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """An account's keys, or all, oldest first, revoked ones included."""
        ...

    async def active(self, account: AccountId, now: datetime) -> Sequence[ApiKey]:
        """An account's keys that are neither revoked nor expired at ``now``, oldest first. Raises Unavailable when too
        many look at once: an account may have had any number of keys.
        """
        ...

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """Revoke a key. False where it was revoked before, or where there is none of this id."""
        ...
