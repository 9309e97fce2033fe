"""API keys in PostgreSQL."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from time import monotonic

import asyncpg

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.rows import from_key, to_key
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.errors import InvalidRequest
from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId, KeyId

FRESH_S = 0.5
"""How long a key that was found is taken to be what it was: a revocation elsewhere is seen after at most this."""
MAX_FRESH = 10_000


class PostgresKeys:
    """See ``vectoll.ports.keys.KeyStore`` for what each method promises.

    A key that was just looked up is not looked up again for ``FRESH_S``: a client that sends a hundred requests a
    second costs two look-ups. Unknown keys are never remembered, so that a new key works at once everywhere.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._fresh: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()

    async def add(self, key: ApiKey) -> None:
        """Store a new key. Raises InvalidRequest when its id or secret is known already."""
        rules.check_holder(key.account)
        try:
            await self._database.fetch("insert_key", *from_key(key), is_repeatable=False)
        except asyncpg.UniqueViolationError:
            raise InvalidRequest("an API key with this id or secret exists already") from None
        except asyncpg.DataError:
            raise InvalidRequest("a name must be text without NUL characters") from None

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """The key with this digest, as it was at most ``FRESH_S`` ago."""
        known = self._fresh.get(digest)
        if known is not None and monotonic() < known[0]:
            return known[1]
        asked_at = monotonic()
        key = await self._one("key_by_digest", digest)
        if key is None:
            self._fresh.pop(digest, None)
            return None
        self._fresh[digest] = asked_at + FRESH_S, key
        self._fresh.move_to_end(digest)
        if len(self._fresh) > MAX_FRESH:
            self._fresh.popitem(last=False)
        return key

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """The key of this id."""
        return await self._one("key_by_id", key_id)

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """An account's keys, or all, oldest first."""
        return [to_key(row) for row in await self._database.fetch("list_keys", account)]

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """Whether a key that was not yet revoked now is."""
        revoked = await self._database.fetch("revoke_key", to_micros(now), key_id)
        self._fresh.clear()
        return bool(revoked)

    async def _one(self, name: str, parameter: object) -> ApiKey | None:
        rows = await self._database.fetch(name, parameter)
        return to_key(rows[0]) if rows else None
