"""Everything that is stored, in one PostgreSQL database that any number of gateways share.

::

    store = await open_postgres(settings.database.url, undecided=data_dir / "undecided-charges")
    Billing(store.ledger, metrics), KeyAuthenticator(store.keys, clock), Admission(store.limiter, ...)
    await store.close()

The pieces: ``database`` is the pool, ``microbatch`` gathers operations into groups, ``holds`` and ``charges`` are
what a request does to the ledger, and ``ledger``, ``keys``, ``payments``, ``nonces``, ``history``, ``allowances`` and
``limiter`` are the ports on top. Statements are in ``sql/``; the schema with its functions is in ``migrations/``.
"""

from contextlib import AsyncExitStack
from pathlib import Path

from vectoll.adapters.storage.postgres.allowances import PostgresAllowances
from vectoll.adapters.storage.postgres.charges import Charges
from vectoll.adapters.storage.postgres.database import Database, PoolSettings, connect
from vectoll.adapters.storage.postgres.history import PostgresHistory
from vectoll.adapters.storage.postgres.holds import HoldRows
from vectoll.adapters.storage.postgres.keys import PostgresKeys
from vectoll.adapters.storage.postgres.ledger import PostgresLedger
from vectoll.adapters.storage.postgres.limiter import PostgresRateLimiter
from vectoll.adapters.storage.postgres.migrations import check
from vectoll.adapters.storage.postgres.nonces import PostgresNonces
from vectoll.adapters.storage.postgres.payments import PostgresPayments
from vectoll.adapters.storage.postgres.upkeep import Upkeep
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.ports.clock import Clock, SystemClock

__all__ = ["PoolSettings", "PostgresStore", "open_postgres"]


class PostgresStore:
    """Every port over one database, for one event loop. Made by ``open_postgres``."""

    def __init__(self, database: Database, clock: Clock, undecided: UndecidedCharges) -> None:
        self.database = database
        self._holds = HoldRows(database)
        self._charges = Charges(database, clock, undecided)
        self.ledger = PostgresLedger(database, self._holds, self._charges, undecided, clock)
        self.keys = PostgresKeys(database)
        self.payments = PostgresPayments(database)
        self.nonces = PostgresNonces(database)
        self.history = PostgresHistory(database)
        self.allowances = PostgresAllowances(database, clock)
        self.limiter = PostgresRateLimiter(database)
        self._upkeep = Upkeep(database, self._holds, self.ledger)

    @property
    def is_lost(self) -> bool:
        """Whether the database did not answer when it was last asked, a few seconds ago at most."""
        return self.database.reachability.is_lost

    async def close(self) -> None:
        """Commit and answer everything that was asked for, then give the connections back, whatever fails of it."""
        async with AsyncExitStack() as parts:  # the last first
            for part in (self.database, self.limiter, self._holds, self._upkeep, self._charges):
                parts.push_async_callback(part.close)


async def open_postgres(
    url: str,
    clock: Clock | None = None,
    pool: PoolSettings | None = None,
    undecided: Path | None = None,
) -> PostgresStore:
    """Connect to a database whose schema this program can use.

    ``undecided`` is a directory for charges whose outcome is not known when this process ends; without one it forgets
    them. Raises ConfigurationError when it cannot be reached, or says which command brings its schema up to date.
    """
    database = await connect(url, pool or PoolSettings())
    try:
        await check(database)
    except BaseException:
        await database.close()
        raise
    return PostgresStore(database, clock or SystemClock(), UndecidedCharges(undecided))
