"""A bounded pool of connections, and statements by name: each has a time limit, and a lost connection is replaced."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from vectoll.adapters.storage.blocks import read_blocks
from vectoll.adapters.storage.long_reads import LongReads
from vectoll.adapters.storage.postgres.failures import CANNOT_SERVE, COLLIDED, CONNECTION_LOST, unavailable
from vectoll.adapters.storage.postgres.reachability import Reachability
from vectoll.domain.errors import ConfigurationError, Draining, Unusable

LONG_S = 3600.0
"""What reads the whole ledger may take an hour."""
TAKE_TIME = (
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '60s'; "
    "SET LOCAL enable_seqscan = on"
)
"""For a transaction that reads whole tables."""
OLDEST_SERVER = 15

T = TypeVar("T")
Connection = Any
"""``asyncpg.Connection``, whose own types promise little."""
Row = Sequence[Any]


def sql(name: str) -> str:
    """The statement under ``-- name: name`` in one of the files in ``sql/``."""
    return read_blocks(__package__)[name]


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many connections one process may have, and how long a statement may take, waiting for locks included."""

    connections: int = 10
    timeout_s: float = 5.0


class Database:
    """For one event loop. Every method raises Unavailable when the database does not answer, Draining once closed."""

    def __init__(self, pool: Any, settings: PoolSettings) -> None:
        self._pool = pool
        self.timeout_s = settings.timeout_s
        self.reachability = Reachability(settings.timeout_s)
        self.is_closed = False
        at_once = max(1, settings.connections // 2)
        self._long_reads = LongReads(at_once, settings.timeout_s, "The database is busy. Please try again.")

    async def fetch(self, name: str, *parameters: Any, is_repeatable: bool = True) -> Sequence[Row]:
        """The rows of a named statement, in one round trip: a transaction of its own, durable on return.

        After a collision with another transaction it is tried once more; after the loss of a connection too, where
        ``is_repeatable``: carrying it out twice does what once does. Raises OutcomeUnknown when it may or may not
        have been carried out.
        """
        statement = sql(name)
        rows: Sequence[Row] = await self.run(lambda db: db.fetch(statement, *parameters), is_repeatable)
        return rows

    async def read(self, reader: str, name: str, *parameters: Any) -> Sequence[Row]:
        """``fetch`` for what may visit many rows: on at most half of the connections, so that holds and charges find
        one, with readers taking turns. Also raises Unavailable when the wait is too long.
        """
        async with self._long_reads.turn(reader):
            return await self.fetch(name, *parameters)

    async def value(self, name: str, *parameters: Any, is_repeatable: bool = True) -> Any:
        """The first column of the only row, None when there is no row."""
        rows = await self.fetch(name, *parameters, is_repeatable=is_repeatable)
        return rows[0][0] if rows else None

    async def run(self, work: Callable[[Connection], Awaitable[T]], is_repeatable: bool) -> T:
        """Call ``work`` with a connection, as ``fetch`` does with a statement."""
        has_failed = may_be_done = False
        while True:
            was_sent = False
            try:
                async with self._pool.acquire(timeout=self.timeout_s) as connection:
                    was_sent = True
                    with _ending_what_is_broken(connection):
                        result = await work(connection)
            except (*CONNECTION_LOST, *COLLIDED, *CANNOT_SERVE) as error:
                if self.is_closed:
                    raise Draining from None
                is_lost = isinstance(error, CONNECTION_LOST)
                may_be_done |= is_lost and was_sent
                may_repeat = isinstance(error, COLLIDED) or (is_lost and (is_repeatable or not was_sent))
                if has_failed or not may_repeat:
                    self._tell(error)
                    if isinstance(error, asyncpg.UniqueViolationError):
                        raise
                    raise unavailable(error, may_be_done=may_be_done) from error
                has_failed = True
            else:
                self.reachability.answered()
                return result

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A connection that sees one moment of the database, for reads that may take long."""
        try:
            async with (
                self._pool.acquire(timeout=self.timeout_s) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await connection.execute(TAKE_TIME)
                self.reachability.answered()
                yield connection
        except (*CONNECTION_LOST, *CANNOT_SERVE) as error:
            if self.is_closed:
                raise Draining from None
            self._tell(error)
            raise unavailable(error, may_be_done=False) from error

    def _tell(self, error: BaseException) -> None:
        """Tell ``reachability`` of what was given up: only a lost connection means that the database is lost."""
        if isinstance(error, CONNECTION_LOST):
            self.reachability.failed(error, _explain(error))
        else:
            self.reachability.answered()

    async def close(self) -> None:
        """Give the connections back; statements under way end first, or are cut off when their time is over."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            await asyncio.wait_for(self._pool.close(), self.timeout_s)
        except TimeoutError:
            self._pool.terminate()


async def connect(url: str, settings: PoolSettings) -> Database:
    """Open a pool. Raises ConfigurationError, which never holds the URL: there may be a password in it."""
    pool = None
    try:
        pool = await asyncpg.create_pool(url, reset=_leave_as_it_is, **_pool_options(settings))
        async with pool.acquire(timeout=settings.timeout_s) as connection:
            _check_version(connection)
    except BaseException as error:
        if pool is not None:
            pool.terminate()
        if isinstance(error, (*CONNECTION_LOST, asyncpg.PostgresError, ValueError)):
            is_url_wrong = isinstance(error, asyncpg.ClientConfigurationError | ValueError)
            kind, where = (ConfigurationError, "") if is_url_wrong else (Unusable, _where(url))
            message = f"cannot connect to the database in database.url{where}: {_explain(error)}{_hint(url)}"
            raise kind(message) from None
        raise
    return Database(pool, settings)


@contextmanager
def _ending_what_is_broken(connection: Connection) -> Iterator[None]:
    """A connection that asyncpg cannot go on with still counts as open: the pool would hand it out again."""
    try:
        yield
    except asyncpg.InternalClientError:
        connection.terminate()
        raise


def _check_version(connection: Connection) -> None:
    version = connection.get_server_version().major
    if version < OLDEST_SERVER:
        raise Unusable(f"PostgreSQL {OLDEST_SERVER} or newer is needed, the database is {version}")


def _pool_options(settings: PoolSettings) -> dict[str, Any]:
    milliseconds = str(int(settings.timeout_s * 1000))
    return {
        "min_size": 0,
        "max_size": settings.connections,
        "timeout": settings.timeout_s,
        "command_timeout": settings.timeout_s * 2,  # the server's own limit comes first
        "max_inactive_connection_lifetime": 300,
        "server_settings": {
            "application_name": "vectoll",
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
            "tcp_user_timeout": milliseconds,
            "default_transaction_isolation": "read committed",  # what waited for a lock must see what was committed
            "jit": "off",
            "enable_seqscan": "off",  # what is read is found by an index; a small table may grow under its plan
            "plan_cache_mode": "force_generic_plan",  # a hold alone: 0.40 ms instead of 0.58
        },
    }


async def _leave_as_it_is(connection: Connection) -> None:
    """Nothing here changes a session, so there is nothing to reset. Saves each statement a round trip."""


def _where(url: str) -> str:
    """The address in a URL, where no part of a password can be taken for one."""
    address = urlsplit(url).netloc.rpartition("@")[2]
    return f" ({address})" if address and not _hint(url) else ""


def _hint(url: str) -> str:
    """What may be wrong with a URL in which the password seems to end early."""
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if url.count("@") == authority.count("@") <= 1:
        return ""
    return "; in a user's name or password @ : / ? # must be percent-encoded: @ is %40"


def _explain(error: BaseException) -> str:
    """Why, in words that hold no secret: the server's own message, the system's, or what kind of error it was."""
    match error:
        case asyncpg.PostgresError():
            return str(error.args[0]) if error.args else type(error).__name__
        case asyncpg.ClientConfigurationError() | ValueError():
            return "it is not a URL such as postgresql://user:password@host:5432/name"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case OSError() if error.strerror:
            return error.strerror
        case _:
            return type(error).__name__
