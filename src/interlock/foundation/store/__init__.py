"""The durable store: PostgreSQL through scoped transactions, its migrations, and the launcher of the embedded one.

Knows no table but its own; every package brings its `queries.sql` and its migrations.
"""

from asyncpg.exceptions import CheckViolationError as CheckViolation
from asyncpg.exceptions import ForeignKeyViolationError as ForeignKeyViolation
from asyncpg.exceptions import LockNotAvailableError as LockNotAvailable
from asyncpg.exceptions import UniqueViolationError as UniqueViolation

from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.launcher import Launcher
from interlock.foundation.store.migrations import Migrated, migrate
from interlock.foundation.store.partitions import ensure_partitions
from interlock.foundation.store.queries import Queries, Query
from interlock.foundation.store.roles import external_urls, role_statements
from interlock.foundation.store.store import Store, Transaction
from interlock.foundation.store.urls import StoreUrls
from interlock.foundation.store.watch import STORE_MERGES, StoreWatch

__all__ = [
    "STORE_MERGES",
    "CheckViolation",
    "ForeignKeyViolation",
    "Launcher",
    "LockNotAvailable",
    "Migrated",
    "Queries",
    "Query",
    "Store",
    "StoreConfig",
    "StoreUrls",
    "StoreWatch",
    "Transaction",
    "UniqueViolation",
    "ensure_partitions",
    "external_urls",
    "migrate",
    "role_statements",
]
