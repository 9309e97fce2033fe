"""The part of the composition root that is about ``database.url``: PostgreSQL, which several gateways share.

Nothing here is imported unless it is set, or a `vectoll db` command asks for it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vectoll.adapters.storage.copying import Copied, copy_store
from vectoll.adapters.storage.lock import DataDirLock
from vectoll.adapters.storage.postgres import PoolSettings, PostgresStore, open_postgres
from vectoll.adapters.storage.postgres.database import Database, connect
from vectoll.adapters.storage.postgres.migrations import Part, SchemaVersions, migrate, versions
from vectoll.domain.errors import ConfigurationError
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.progress import Progress
from vectoll.ports.store import Store
from vectoll.settings import DatabaseSettings, Settings

__all__ = [
    "Copied",
    "Part",
    "SchemaVersions",
    "copy_database",
    "database_versions",
    "migrate_database",
    "open_shared_store",
    "shared_limiter",
]


UNDECIDED_NAME = "undecided-charges"
"""Where, in the data directory, a gateway records charges to be looked up once the database is back."""


@asynccontextmanager
async def open_shared_store(settings: Settings, clock: Clock | None) -> AsyncIterator[PostgresStore]:
    """Everything that is stored in the database. Raises ConfigurationError."""
    database, undecided = settings.database, Path(settings.data_dir) / UNDECIDED_NAME
    store = await open_postgres(_url(database), clock, _pool(database), undecided)
    try:
        yield store
    finally:
        await store.close()


def shared_limiter(store: Store) -> RateLimiter:
    """The limits that all gateways count together."""
    assert isinstance(store, PostgresStore)
    return store.limiter


async def migrate_database(settings: DatabaseSettings, parts: tuple[Part, ...]) -> SchemaVersions:
    """Bring the schema up to date. Raises ConfigurationError."""
    async with _open(_url(settings), settings) as database:
        return await migrate(database, parts)


async def database_versions(settings: DatabaseSettings) -> SchemaVersions:
    """The versions of the schema. Raises ConfigurationError."""
    async with _open(_url(settings), settings) as database:
        return await versions(database)


async def copy_database(settings: Settings, url: str | None, progress: Progress) -> Copied:
    """Copy the data directory's ledger into an empty database and verify it there, while no server uses either.

    Raises ConfigurationError, and then the database is as empty as before.
    """
    with DataDirLock(Path(settings.data_dir)):
        async with _open(url or _url(settings.database), settings.database) as database:
            return await copy_store(Path(settings.data_dir), database, progress)


@asynccontextmanager
async def _open(url: str, settings: DatabaseSettings) -> AsyncIterator[Database]:
    database = await connect(url, _pool(settings))
    try:
        yield database
    finally:
        await database.close()


def _url(settings: DatabaseSettings) -> str:
    if settings.url is None:
        raise ConfigurationError("setting database.url is not set: postgresql://user:password@host:5432/name")
    return settings.url


def _pool(settings: DatabaseSettings) -> PoolSettings:
    return PoolSettings(settings.connections, settings.timeout_s)
