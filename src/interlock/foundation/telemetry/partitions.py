"""Day partitions of the telemetry tables: made ahead, dropped when their stories have aged out.

Runs as the owner of the tables, in one short connection; it reads no row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.store import StoreUrls
from interlock.foundation.telemetry.config import TelemetryConfig

log = structlog.get_logger("interlock.telemetry")
_CONNECT_S: Final = 5.0
_LOCK_TIMEOUT: Final = "2s"


@dataclass(frozen=True, slots=True)
class _Partitioned:
    table: str
    by_id: bool
    days_kept: int


class PartitionKeeper:
    """Keeps the days of `telemetry_*` from `days kept` ago to `partitions_ahead_days` ahead."""

    def __init__(self, urls: StoreUrls, clock: Clock, config: TelemetryConfig | None = None) -> None:
        self._urls = urls
        self._clock = clock
        self._config = config or TelemetryConfig()

    async def run_once(self) -> tuple[int, int]:
        """Make missing partitions and drop old ones; return how many of each. Two at once do no harm."""
        connection = await asyncpg.connect(self._urls.owner, timeout=_CONNECT_S)
        try:
            await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            made = dropped = 0
            for each in self._tables():
                present = await self._present(connection, each.table)
                wanted = self._wanted_days(each)
                for day in wanted:
                    if _name(each.table, day) not in present:
                        made += await self._make(connection, each, day)
                oldest = _name(each.table, self._today() - timedelta(days=each.days_kept))
                for name in present:
                    if name < oldest and not name.endswith("_default"):
                        await connection.execute(f"DROP TABLE {name}")
                        dropped += 1
        finally:
            await connection.close()
        if made or dropped:
            log.info("partitions_kept", made=made, dropped=dropped)
        return made, dropped

    async def run(self) -> None:
        """Keep partitions until cancelled; a store that is away is asked again at the next turn."""
        while True:
            try:
                await self.run_once()
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("partitions_not_kept", error=str(error))
            await self._clock.sleep(self._config.partitions_interval_s)

    def _tables(self) -> Iterable[_Partitioned]:
        yield _Partitioned("telemetry_requests", by_id=True, days_kept=self._config.story_days)
        yield _Partitioned("telemetry_request_upstream_ids", by_id=True, days_kept=self._config.story_days)
        yield _Partitioned("telemetry_events", by_id=False, days_kept=self._config.event_days)

    def _today(self) -> datetime:
        moment = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, tz=UTC)
        return moment.replace(hour=0, minute=0, second=0, microsecond=0)

    def _wanted_days(self, each: _Partitioned) -> list[datetime]:
        # Yesterday too: a spool may still hold its requests.
        first = -min(1, each.days_kept)
        return [self._today() + timedelta(days=n) for n in range(first, self._config.partitions_ahead_days + 1)]

    async def _present(self, connection: "asyncpg.Connection[asyncpg.Record]", table: str) -> set[str]:
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass", table
        )
        return {row["name"] for row in rows}

    async def _make(self, connection: "asyncpg.Connection[asyncpg.Record]", each: _Partitioned, day: datetime) -> int:
        name = _name(each.table, day)
        low, high = (_bound(moment, by_id=each.by_id) for moment in (day, day + timedelta(days=1)))
        try:
            async with connection.transaction():
                await connection.execute(
                    f"CREATE TABLE {name} PARTITION OF {each.table} FOR VALUES FROM ('{low}') TO ('{high}')"
                )
                await connection.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
                await connection.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        except asyncpg.DuplicateTableError:
            # A second keeper was faster.
            return 0
        except asyncpg.CheckViolationError:
            # Rows of that day are in the DEFAULT partition already; the alert on it says so.
            log.warning("partition_refused", table=each.table, day=name)
            return 0
        return 1


def _name(table: str, day: datetime) -> str:
    return f"{table}_{day:%Y%m%d}"


def _bound(moment: datetime, *, by_id: bool) -> str:
    if by_id:
        return str(UUID(int=round(moment.timestamp() * 1_000) << 80))
    return moment.isoformat()
