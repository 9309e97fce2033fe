"""Every store there is, empty."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.ledger import FixedClock

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.sqlite import SqliteStore, open_sqlite
from vectoll.ports.keys import KeyStore
from vectoll.ports.ledger import Ledger


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock
) -> AsyncIterator[MemoryStore | SqliteStore]:
    store = MemoryStore(clock) if request.param == "memory" else await open_sqlite(tmp_path, clock)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: MemoryStore | SqliteStore) -> Ledger:
    return store.ledger


@pytest.fixture
def keys(store: MemoryStore | SqliteStore) -> KeyStore:
    return store.keys
