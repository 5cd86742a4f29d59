"""All rows of all tenants, for the memory of an edge.

Opens the one transaction that it reads in; decides nothing.
"""

from typing import Final

import msgspec

from interlock.foundation.store import Queries, Store
from interlock.gateway.domain.directory import DirectoryRows, Route, RouteSpec
from interlock.gateway.store.limits import limit_of
from interlock.gateway.store.routes import deployment_of, provider_of, weight_of

SQL = Queries("interlock.gateway")
# Versions of a route that an edge holds beside those that answer: whoever tries one out asks for it by number.
_VERSIONS_HELD: Final = 16


async def load_directory(store: Store) -> DirectoryRows:
    """Return all rows of all tenants, for the memory of an edge."""
    async with store.ops("the edge holds routes and limits in memory") as tx:
        providers = await tx.fetch(SQL.all_providers)
        deployments = await tx.fetch(SQL.all_deployments)
        routes = await tx.fetch(SQL.all_routes, _VERSIONS_HELD)
        weights = await tx.fetch(SQL.all_weights)
        limits = await tx.fetch(SQL.all_limits)
        tiers = await tx.fetch(SQL.all_tiers)
    return DirectoryRows(
        providers=tuple(map(provider_of, providers)),
        deployments=tuple(map(deployment_of, deployments)),
        routes=tuple(
            Route(
                row["organization_id"],
                row["alias"],
                row["version"],
                row["created_us"],
                msgspec.json.decode(row["spec"], type=RouteSpec),
                row["digest"],
            )
            for row in routes
        ),
        limits=tuple(map(limit_of, limits)),
        tiers={str(row["id"]): row["tier"] for row in tiers},
        weights=tuple(map(weight_of, weights)),
    )
