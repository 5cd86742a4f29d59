"""Rings of workers that are not started again, shipped by a sibling that is.

Touches no ring whose worker the supervisor still runs, and none that another process holds.
"""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.ring import RingBusyError
from interlock.foundation.telemetry.shipper import Shipper
from interlock.foundation.telemetry.spool import Spool

log = structlog.get_logger("interlock.telemetry")


class AbandonedRings:
    """The rings `ROLE-N.ring` of a folder with N at or above the number of workers in force."""

    def __init__(
        self,
        folder: Path,
        role: str,
        workers: int,
        shipper_of: Callable[[Spool], Shipper],
        clock: Clock,
        config: TelemetryConfig | None = None,
    ) -> None:
        """`shipper_of` builds the shipper of a ring, with the store and roll-ups of the role."""
        self._folder = folder
        self._role = role
        self._workers = workers
        self._shipper_of = shipper_of
        self._clock = clock
        self._config = config or TelemetryConfig()

    async def run_once(self) -> int:
        """Ship and remove what is abandoned; return the number of rings. Raises when the store is away."""
        done = 0
        for path in sorted(self._folder.glob(f"{self._role}-*.ring")):
            number = path.stem.removeprefix(f"{self._role}-")
            if number.isdigit() and int(number) >= self._workers:
                done += await self._ship(path)
        return done

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self.run_once()
            except (InterlockError, OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("abandoned_ring_waits", role=self._role, error=str(error))
            await self._clock.sleep(self._config.abandoned_interval_s)

    async def _ship(self, path: Path) -> int:
        try:
            spool = Spool(path, self._clock, self._config)
        except RingBusyError:
            return 0
        try:
            shipped = await self._shipper_of(spool).run_once()
        except BaseException:
            spool.close()
            raise
        spool.remove()
        log.info("abandoned_ring_shipped", ring=path.name, frames=shipped)
        return 1
