"""Stories and stream events leave by the day: whole partitions are dropped once their last row has aged out.

Runs as the owner of the tables, in one short connection; deletes no single row.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import StoreUrls, ensure_partitions
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.stories import QUERIES

log = structlog.get_logger("interlock.telemetry")
# The day of a partition, or its month.
_DAY: Final = re.compile(r"_p(\d{6}(?:\d{2})?)$")


class Retention:
    """Keeps the day partitions: the coming ones are made, those past their days are dropped."""

    def __init__(
        self,
        urls: StoreUrls,
        clock: Clock,
        config: TelemetryConfig | None = None,
        more: Mapping[str, int] | None = None,
    ) -> None:
        """`more` are tables of others and the days that they keep."""
        self._more = more or {}
        self._urls = urls
        self._clock = clock
        self._config = config or TelemetryConfig()

    async def run_once(self) -> list[str]:
        """Make what is missing, drop what is too old, and return the names of what was dropped."""
        made = await ensure_partitions(self._urls)
        connection = await asyncpg.connect(self._urls.owner)
        try:
            await connection.execute(f"SET lock_timeout = {self._config.retention_lock_ms}")
            dropped = [name for table, days in self._days_kept() for name in await self._drop(connection, table, days)]
        finally:
            await connection.close()
        if made or dropped:
            log.info("partitions_kept", made=len(made), dropped=dropped)
        return dropped

    async def run(self) -> None:
        """Keep partitions until cancelled; a store that is away is asked again at the next turn."""
        while True:
            try:
                await self.run_once()
            except (InterlockError, OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("partitions_not_kept", error=str(error))
            await self._clock.sleep(self._config.retention_interval_s)

    def _days_kept(self) -> tuple[tuple[str, int], ...]:
        return (
            ("telemetry_requests", self._config.story_days),
            ("telemetry_request_upstream_ids", self._config.story_days),
            ("telemetry_events", self._config.event_days),
            *self._more.items(),
        )

    async def _drop(self, connection: "asyncpg.Connection[asyncpg.Record]", table: str, days_kept: int) -> list[str]:
        today = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, tz=UTC)
        oldest_kept = f"{today - timedelta(days=days_kept):%Y%m%d}"
        rows = await connection.fetch(QUERIES.partitions_of.sql, table)
        found = ((row["name"], _DAY.search(row["name"])) for row in rows)
        old = [name for name, day in found if day is not None and day.group(1) < oldest_kept[: len(day.group(1))]]
        for name in old:
            await connection.execute(f"DROP TABLE {name}")
        return old
