"""API keys in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.rows import from_key, to_key
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.errors import InvalidRequest
from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId, KeyId


class PostgresKeys:
    """See ``vectoll.ports.keys.KeyStore`` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        """Store a new key. Raises InvalidRequest when its id or secret is known already."""
        rules.check_key(key)
        try:
            await self._database.fetch("insert_key", *from_key(key), is_repeatable=False)
        except asyncpg.UniqueViolationError:
            raise InvalidRequest("an API key with this id or secret exists already") from None

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """The key with this digest."""
        return await self._one("key_by_digest", digest)

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """The key of this id."""
        return await self._one("key_by_id", key_id)

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """An account's keys, or all, oldest first."""
        if account is None:
            rows = await self._database.fetch("list_keys")
        else:
            rows = await self._database.fetch("list_account_keys", account)
        return list(map(to_key, rows))

    async def active(self, account: AccountId, now: datetime) -> Sequence[ApiKey]:
        """An account's keys that can be used."""
        rows = await self._database.read(account, "active_keys", account, to_micros(now))
        return list(map(to_key, rows))

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """Whether a key that was not yet revoked now is."""
        revoked = await self._database.fetch("revoke_key", to_micros(now), key_id)
        return bool(revoked)

    async def _one(self, name: str, parameter: object) -> ApiKey | None:
        rows = await self._database.fetch(name, parameter)
        return to_key(rows[0]) if rows else None
