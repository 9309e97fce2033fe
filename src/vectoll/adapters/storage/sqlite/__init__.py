"""Ledger, keys, payments and sign-in nonces in one SQLite file, ``vectoll.sqlite3`` in the data directory.

::

    store = await open_sqlite(Path(settings.data_dir))
    Billing(store.ledger, metrics), KeyAuthenticator(store.keys, clock)
    await store.close()

The pieces: ``reader`` reads, ``writer`` commits groups of operations, ``work`` is one transaction's changes, and
``ledger``, ``keys``, ``payments``, ``nonces`` and ``allowances`` are the ports on top. Statements are in ``sql/``,
the schema is in ``migrations/``.
"""

import asyncio
import logging
from pathlib import Path

from vectoll.adapters.storage.sqlite.allowances import SqliteAllowances
from vectoll.adapters.storage.sqlite.connection import prepare
from vectoll.adapters.storage.sqlite.history import SqliteHistory
from vectoll.adapters.storage.sqlite.keys import SqliteKeys
from vectoll.adapters.storage.sqlite.ledger import SqliteLedger
from vectoll.adapters.storage.sqlite.nonces import SqliteNonces
from vectoll.adapters.storage.sqlite.payments import SqlitePayments
from vectoll.adapters.storage.sqlite.reader import Reader
from vectoll.adapters.storage.sqlite.writer import GroupWriter
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.domain.errors import VectollError
from vectoll.ports.clock import Clock, SystemClock

__all__ = ["SqliteKeys", "SqliteLedger", "SqliteStore", "open_sqlite"]

UNDECIDED_NAME = "undecided-charges-sqlite"
"""Where, in the data directory, charges are written down of which only the next start can tell whether they were made.

Not where a gateway writes down those of PostgreSQL, which nobody can look up here.
"""

_log = logging.getLogger("vectoll.storage")


class SqliteStore:
    """Every port over one file, for one event loop. Made by ``open_sqlite``."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._reader = Reader(path)
        undecided = UndecidedCharges(path.with_name(UNDECIDED_NAME))
        self._writer = GroupWriter(path, clock, undecided)
        self.ledger = SqliteLedger(self._writer, self._reader, clock, undecided)
        self.keys = SqliteKeys(self._writer, self._reader)
        self.payments = SqlitePayments(self._writer, self._reader)
        self.nonces = SqliteNonces(self._writer)
        self.history = SqliteHistory(self._reader)
        self.allowances = SqliteAllowances(self._writer, self._reader, clock)

    @property
    def is_lost(self) -> bool:
        """Never: it is a file of this machine."""
        return False

    async def close(self) -> None:
        """Commit and answer everything that was asked for, then free the file. Later calls raise Draining."""
        await self._writer.close()
        self._reader.close()


async def open_sqlite(data_dir: Path, clock: Clock | None = None) -> SqliteStore:
    """Open the data directory's file, making what is missing and bringing its schema up to date.

    Raises ConfigurationError when the directory cannot be used, or a newer vectoll has written it.
    """
    path = await asyncio.to_thread(prepare, data_dir)
    store = SqliteStore(path, clock or SystemClock())
    try:
        await store.ledger.undo_undelivered()
    except (VectollError, OSError) as error:
        _log.warning("undecided_charges_left", extra={"reason": str(error)})  # for the next start
    return store
