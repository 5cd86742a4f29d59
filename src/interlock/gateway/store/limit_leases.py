"""Levels of limits in PostgreSQL: one statement a flight, and how many machines lease.

Opens no transaction of its own; each statement is one and sets its own scope.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.store import Queries, Store
from interlock.gateway.domain.buckets import Bucket
from interlock.gateway.domain.leasing import Flight, Landed

SQL = Queries("interlock.gateway")


class StoredLimits:
    """The store as `LimitStore`."""

    def __init__(self, store: Store, *, lease_us: int, live_us: int) -> None:
        self._store = store
        self._lease_us = lease_us
        self._live_us = live_us

    @property
    def is_up(self) -> bool:
        """Whether the store answered its last question in time."""
        return self._store.is_up

    async def fly(self, flight: Flight) -> Landed:
        """Decide a flight in one round trip."""
        rows = await self._store.single(SQL.lease, *flight_arguments(flight, self._lease_us))
        return landed_of(flight, rows[0])

    async def heartbeat(self, machine: UUID) -> int:
        """Say that the machine is there; return how many are."""
        rows = await self._store.single(SQL.limit_heartbeat, SYSTEM_ORGANIZATION_ID, machine, self._live_us)
        return int(rows[0]["machines"])


def array_literal(values: Iterable[UUID | int | bool | str]) -> str:
    """Write numbers, truth values, uuids or plain words as an array of PostgreSQL."""
    return "{" + ",".join(map(str, values)) + "}"


def flight_arguments(flight: Flight, lease_us: int) -> tuple[object, ...]:
    """Return the statement's arguments; arrays as text, as the driver takes its time over lists."""
    place = {each.id: at for at, each in enumerate(flight.buckets, start=1)}
    items = [
        (at, place[bucket.id], need, must)
        for at, ask in enumerate(flight.asks, start=1)
        for bucket, need, must in zip(ask.buckets, ask.needs, ask.enforced, strict=True)
    ]
    buckets: list[Bucket] = flight.buckets
    return (
        flight.organization_id,
        flight.owner,
        flight.fence,
        lease_us,
        array_literal(each.id for each in buckets),
        array_literal(each.version for each in buckets),
        array_literal(each.rate_micro for each in buckets),
        array_literal(each.burst_micro for each in buckets),
        array_literal(str(each.refill) for each in buckets),
        array_literal(flight.credits),
        array_literal(flight.backs),
        array_literal(flight.held),
        array_literal(flight.leases),
        array_literal(ask for ask, _, _, _ in items),
        array_literal(at for _, at, _, _ in items),
        array_literal(need for _, _, need, _ in items),
        array_literal(must for _, _, _, must in items),
    )


def landed_of(flight: Flight, row: Mapping[str, Any]) -> Landed:
    """Return the answer, with what was short cut up by ask."""
    shorts = list(map(bool, row["is_short"]))
    parts, at = [], 0
    for ask in flight.asks:
        parts.append(shorts[at : at + len(ask.buckets)])
        at += len(ask.buckets)
    return Landed(list(row["levels_micro"]), list(row["leased_micro"]), parts)
