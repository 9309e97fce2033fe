"""Reading: short reads at once in the event loop, long ones in a thread."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from vectoll.adapters.storage.long_reads import LongReads
from vectoll.adapters.storage.sqlite.connection import connect_to_read
from vectoll.domain.errors import Draining, Unavailable

LONG_READS = 2
"""At once."""
MAX_WAIT_S = 5.0

T = TypeVar("T")


class Reader:
    """Always sees what is committed, by this process or another: nothing is cached between two reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = connect_to_read(path)
        self._long_reads = LongReads(LONG_READS, MAX_WAIT_S, "The ledger is busy. Please try again.")

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query of microseconds on the loop's own connection. Raises Unavailable, or Draining once closed."""
        if self._connection is None:
            raise Draining
        try:
            return query(self._connection)
        except sqlite3.OperationalError as error:
            raise _unavailable() from error

    async def read_in_thread(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in a thread, on a connection of its own and in one snapshot. Raises as ``read`` does."""

        def in_snapshot(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            return query(connection)

        return await self._read_apart(in_snapshot)

    async def read_in_turn(self, reader: str, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query that may visit many rows, in a thread, on a connection of its own and in no transaction.

        Few run at once, as threads are shared with everything else, and readers take turns. Also raises Unavailable
        when the wait is too long.
        """
        async with self._long_reads.turn(reader):
            return await self._read_apart(query)

    async def _read_apart(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise Draining
        return await asyncio.to_thread(self._connect_and_read, query)

    def close(self) -> None:
        """Free the loop's connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect_and_read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with closing(connect_to_read(self._path)) as connection:
                return query(connection)
        except sqlite3.OperationalError as error:
            raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable("The ledger cannot be read right now.", retry_after_s=1)
