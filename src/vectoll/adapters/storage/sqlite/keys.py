"""API keys in SQLite. Never cached: a revocation by any process is seen by the next lookup."""

from collections.abc import Sequence
from datetime import datetime

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.rows import from_key, to_key
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.work import Work
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.times import to_micros
from vectoll.domain.errors import InvalidRequest
from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId, KeyId


class SqliteKeys:
    """See ``vectoll.ports.keys.KeyStore`` for what each method promises."""

    def __init__(self, writer: GroupWriter, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def add(self, key: ApiKey) -> None:
        """Store a new key. Raises InvalidRequest when its id or secret is known already."""
        rules.check_key(key)
        await self._writer.submit(lambda work: _add(work, key))

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """The key with this digest."""
        return self._one("key_by_digest", digest)

    async def get(self, key_id: KeyId) -> ApiKey | None:
        """The key of this id."""
        return self._one("key_by_id", key_id)

    async def list(self, account: AccountId | None = None) -> Sequence[ApiKey]:
        """An account's keys, or all, oldest first."""
        parameters = () if account is None else (account,)
        name = "list_keys" if account is None else "list_account_keys"
        return await self._reader.read_in_thread(
            lambda db: [to_key(row) for row in db.execute(sql(name), parameters)]
        )

    async def active(self, account: AccountId, now: datetime) -> Sequence[ApiKey]:
        """An account's keys that can be used."""
        wanted = {"account": account, "now": to_micros(now)}
        return await self._reader.read_in_turn(
            account, lambda db: [to_key(row) for row in db.execute(sql("active_keys"), wanted)]
        )

    async def revoke(self, key_id: KeyId, now: datetime) -> bool:
        """Whether a key that was not yet revoked now is."""
        revoked_at = to_micros(now)
        return await self._writer.submit(
            lambda work: work.connection.execute(sql("revoke_key"), (revoked_at, key_id)).rowcount == 1
        )

    def _one(self, name: str, parameter: object) -> ApiKey | None:
        row = self._reader.read(lambda db: db.execute(sql(name), (parameter,)).fetchone())
        return to_key(row) if row else None


def _add(work: Work, key: ApiKey) -> None:
    if work.connection.execute(sql("key_exists"), (key.id, key.digest)).fetchone():
        raise InvalidRequest("an API key with this id or secret exists already")
    work.connection.execute(sql("open_account"), (key.account,))
    work.connection.execute(sql("insert_key"), from_key(key))
