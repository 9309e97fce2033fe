"""A second process on a data directory: ``python -m tests.integration.ledger_child COMMAND DATA_DIR [ARGS]``."""

import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.ledger import make_credit, make_hold

from vectoll.adapters.storage.lock import DataDirLock
from vectoll.adapters.storage.postgres import open_postgres
from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.domain.ids import KeyId
from vectoll.ports.store import Store


async def credit(data_dir: Path, dollars: str) -> None:
    """Add credit, as ``vectoll credit add`` does."""
    store = await open_sqlite(data_dir)
    await store.ledger.post(make_credit(dollars, at=datetime.now(UTC)))
    await store.close()


async def revoke(data_dir: Path, key: str) -> None:
    """Revoke a key, as ``vectoll keys revoke`` does."""
    store = await open_sqlite(data_dir)
    assert await store.keys.revoke(KeyId(key), datetime.now(UTC))
    await store.close()


async def charge_forever(data_dir: Path, url: str | None = None) -> None:
    """Charge one token at a time from 16 tasks; write each charge's id once it is acknowledged."""
    store: Store = await open_sqlite(data_dir) if url is None else await open_postgres(url)

    async def work() -> None:
        for n in itertools.count():
            hold = make_hold(1, key="key_1", charge_id=None if n % 4 else f"idem_{os.getpid()}_{n}")
            if await store.ledger.hold(hold) is None:
                await store.ledger.charge(hold, 1, 0)
                os.write(1, f"{hold.id}\n".encode())

    await asyncio.gather(*(work() for _ in range(16)))


async def lock(data_dir: Path) -> None:
    """Hold the lock until standard input ends."""
    with DataDirLock(data_dir):
        os.write(1, b"locked\n")
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    commands: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "credit": credit,
        "revoke": revoke,
        "charge": charge_forever,
        "lock": lock,
    }
    command, directory, *arguments = sys.argv[1:]
    asyncio.run(commands[command](Path(directory), *arguments))
