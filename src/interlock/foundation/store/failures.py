"""Which failures of the driver mean that the store is away, and which are the statement's own.

Does not retry; `Store.run` does, and only what is safe to repeat.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from interlock.foundation.errors import InterlockError

_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.QueryCanceledError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)
RETRYABLE: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


def is_away(error: BaseException) -> bool:
    """Tell whether the store, and not the statement, is why this failed."""
    if isinstance(error, asyncpg.InterfaceError):
        # The driver has one class for misuse and for a connection that went away; its words tell them apart.
        return "clos" in str(error) or "in the middle" in str(error) or "terminated" in str(error)
    return isinstance(error, _AWAY)


def store_unavailable(cause: str) -> InterlockError:
    """Return the refusal that every caller knows; `cause` is a word for operators."""
    return InterlockError("store_unavailable", detail={"cause": cause}, retry_after_s=1)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the absence of the store into `store_unavailable`; the statement's own errors pass."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
        if is_away(error):
            raise store_unavailable(type(error).__name__) from error
        raise
