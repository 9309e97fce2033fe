"""What went wrong between here and the database, in the words that callers know."""

import asyncpg

from vectoll.domain.errors import OutcomeUnknown, Unavailable

CONNECTION_LOST = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # between the server's last words and the end of the connection
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""A connection that cannot be made, or is gone: a statement that was under way may have been carried out."""

CANNOT_SERVE = (
    asyncpg.InsufficientResourcesError,  # the disk or the memory is full, or there are too many connections
    asyncpg.QueryCanceledError,  # took longer than a statement may
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a primary that no longer is one
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresIOError,
)
"""The database said no, and has done nothing."""

COLLIDED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
"""Another transaction was first. Nothing was done; a second attempt sees what it did."""


def unavailable(cause: BaseException, *, may_be_done: bool) -> Unavailable:
    """What a caller is told. Says nothing of the database's address or of what was asked."""
    away = "The database cannot be reached right now"
    error = (
        OutcomeUnknown(f"{away}, and whether this was done is not known yet.", retry_after_s=1)
        if may_be_done
        else Unavailable(f"{away}. Please try again.", retry_after_s=1)
    )
    error.__cause__ = cause
    return error
