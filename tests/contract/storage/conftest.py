"""Every store there is, empty."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.ledger import FixedClock
from tests.postgres import POOL, emptied

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.postgres import open_postgres
from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.ports.keys import KeyStore
from vectoll.ports.ledger import Ledger
from vectoll.ports.store import Store


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


async def open_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Store:
    if kind == "memory":
        return MemoryStore(clock)
    if kind == "sqlite":
        return await open_sqlite(tmp_path, clock)
    return await open_postgres(await emptied(request.getfixturevalue("database_url")), clock, POOL)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> AsyncIterator[Store]:
    store = await open_store(request.param, request, tmp_path, clock)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return store.ledger


@pytest.fixture
def keys(store: Store) -> KeyStore:
    return store.keys
