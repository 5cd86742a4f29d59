"""Partitions of every table that is split by time: made ahead, owned by the owner, readable by nobody directly.

Does not drop any; retention is the business of the package that owns the table.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import translated
from interlock.foundation.store.pool import Connection
from interlock.foundation.store.queries import Queries
from interlock.foundation.store.roles import quoted
from interlock.foundation.store.urls import StoreUrls

SQL = Queries(__package__)


async def ensure_partitions(urls: StoreUrls, config: StoreConfig | None = None) -> list[str]:
    """Make the partitions of now, of the step before and of the next ones; return the names of the new ones.

    The catalogue says what is split by range; the key may be a timestamptz, a uuid7 or microseconds. A step is a day
    unless the table's comment says `partitions: month`. Safe to call at any time and from many processes.
    """
    bounds = config or StoreConfig()
    with translated():
        connection = await asyncpg.connect(urls.owner)
        try:
            return await make_partitions(connection, bounds)
        finally:
            await connection.close()


async def make_partitions(connection: Connection, config: StoreConfig) -> list[str]:
    """Do the work of `ensure_partitions` on an open connection of the owner."""
    made: list[str] = []
    await connection.execute(SQL.partition_lock.sql)
    try:
        for table in await connection.fetch(SQL.partitioned_tables.sql):
            missing = await connection.fetch(
                SQL.missing_partitions.sql, table["name"], table["step"], config.partitions_ahead
            )
            for each in missing:
                await _make_one(connection, table, each, config)
                made.append(each["name"])
    finally:
        await connection.execute(SQL.partition_unlock.sql)
    return made


async def _make_one(connection: Connection, table: Any, partition: Any, config: StoreConfig) -> None:
    low = bound(table["key_type"], partition["starts_at"].replace(tzinfo=UTC))
    high = bound(table["key_type"], partition["ends_at"].replace(tzinfo=UTC))
    name = quoted(partition["name"])
    async with connection.transaction():
        # Without a limit a long reader of the DEFAULT partition would make every writer queue behind this.
        await connection.execute(f"SET LOCAL lock_timeout = '{config.lock_timeout_s}s'")
        await connection.execute(
            f"CREATE TABLE {name} PARTITION OF {table['name']} FOR VALUES FROM ({low}) TO ({high})"
        )
        await connection.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        await connection.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")


def bound(key_type: str, moment: datetime) -> str:
    """Return the SQL literal of the first key at or after `moment`."""
    if key_type == "timestamptz":
        return f"'{moment.isoformat()}'"
    if key_type == "int8":
        return str(int(moment.timestamp()) * 1_000_000)
    if key_type == "uuid":
        # The first 48 bits of a uuid7 are its milliseconds (RFC 9562, section 5.7).
        return f"'{UUID(int=int(moment.timestamp()) * 1_000 << 80)}'"
    raise BrokenWorldError(
        "partition_key_unknown", f"no partitions by a key of type {key_type}", "use timestamptz, uuid or bigint"
    )
