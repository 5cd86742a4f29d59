"""Rows of providers, deployments, routes, their versions and weights to types and back.

Opens no transactions; services and loops do.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.store import Queries, Transaction
from interlock.gateway.domain.directory import Capabilities, Deployment, Provider, ProviderKind, RouteSpec, Weight

SQL = Queries("interlock.gateway")


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One immutable version of a route."""

    version: int
    digest: str
    spec: RouteSpec
    created_us: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    """An alias and what it gives to whom."""

    organization_id: UUID
    alias: str
    id: UUID
    created_us: int
    weight: Weight


def provider_of(row: Any) -> Provider:
    """Return a provider of its row."""
    return Provider(
        row["organization_id"],
        row["name"],
        ProviderKind(row["kind"]),
        row["base_url"],
        row["pool"],
        row["secret"],
        row["may_be_private"],
    )


def deployment_of(row: Any) -> Deployment:
    """Return a deployment of its row."""
    return Deployment(
        row["organization_id"],
        row["name"],
        row["provider"],
        row["upstream_model"],
        row["input_price_micro"],
        row["output_price_micro"],
        row["max_concurrent"],
        msgspec.json.decode(row["capabilities"], type=Capabilities),
        row["cached_input_price_micro"],
        row["price_version"],
    )


def weight_of(row: Any) -> Weight:
    """Return what a route gives to whom."""
    return Weight(**{name: row[name] for name in Weight.__struct_fields__})


def route_of(row: Any) -> RouteRow:
    """Return a route of its row with its weight."""
    return RouteRow(row["organization_id"], row["alias"], row["id"], row["created_us"], weight_of(row))


async def find_route(
    tx: Transaction, organization_id: UUID, named: str, route_id: UUID | None, *, is_locked: bool = False
) -> RouteRow | None:
    """Return a route by alias or id, locked until the transaction ends where it shall be changed."""
    if is_locked:
        await tx.fetch(SQL.lock_route, organization_id, named, route_id)
    row = await tx.fetchrow(SQL.find_route, organization_id, named, route_id)
    return None if row is None else route_of(row)


async def list_routes(
    tx: Transaction, owners: tuple[UUID, UUID | None], after: str, count: int
) -> list[tuple[RouteRow, list[VersionRow]]]:
    """Return routes by alias behind `after` with their versions: the first owner's before the second's."""
    found = [route_of(row) for row in await tx.fetch(SQL.list_routes, owners[0], after, count, owners[1])]
    versions = {}
    for owner in {each.organization_id for each in found}:
        versions[owner] = await versions_of(tx, owner, [each.alias for each in found])
    return [(each, versions[each.organization_id].get(each.alias, [])) for each in found]


async def versions_of(tx: Transaction, organization_id: UUID, aliases: list[str]) -> dict[str, list[VersionRow]]:
    """Return all versions of some routes by alias, newest first."""
    found: dict[str, list[VersionRow]] = {}
    for row in await tx.fetch(SQL.versions_of, organization_id, aliases):
        spec = msgspec.json.decode(row["spec"], type=RouteSpec)
        found.setdefault(row["alias"], []).append(VersionRow(row["version"], row["digest"], spec, row["created_us"]))
    return found


async def deployments_named(tx: Transaction, organization_id: UUID, spec: RouteSpec) -> list[Deployment] | None:
    """Return the deployments of a version, an organization's own before the platform's; None where one is missing.

    Needs a transaction that may see both.
    """
    found = []
    for name in spec.deployments:
        row = None
        for owner in (organization_id, SYSTEM_ORGANIZATION_ID):
            row = row or await tx.fetchrow(SQL.find_deployment, owner, name, None)
        if row is None:
            return None
        found.append(deployment_of(row))
    return found


async def is_alias(tx: Transaction, organization_id: UUID, alias: str) -> bool:
    """Tell whether an organization may use an alias: its own or the platform's."""
    owners = (organization_id, SYSTEM_ORGANIZATION_ID)
    return any([await tx.fetchrow(SQL.find_route, owner, alias, None) is not None for owner in owners])


async def add_version(
    tx: Transaction, place: tuple[UUID, str], new_id: UUID, spec: tuple[str, str], now_us: int
) -> tuple[int, UUID]:
    """Add a version, `spec` being its canonical JSON and its digest; return its number and the route's id.

    The first one makes the alias, and is what it gives all to.
    """
    canonical, digest = spec
    route_id = await tx.fetchval(SQL.put_route, *place, new_id, now_us)
    latest = await tx.fetchrow(SQL.latest_version, *place)
    version = 1 if latest is None else latest["version"] + 1
    await tx.execute(SQL.add_version, *place, version, digest, canonical, now_us)
    if latest is None:
        await put_weight(tx, Weight(*place, stable_version=version))
    return version, route_id


async def put_weight(tx: Transaction, weight: Weight) -> None:
    """Say what a route gives to whom."""
    await tx.execute(SQL.put_weight, *msgspec.structs.astuple(weight))
