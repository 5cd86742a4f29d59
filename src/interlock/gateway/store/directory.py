"""All rows of all tenants, for the memory of an edge.

Opens the one transaction that it reads in; decides nothing.
"""

from typing import Final

import msgspec

from interlock.foundation.flags import Flag, load_flags
from interlock.foundation.ids import parse_id
from interlock.foundation.store import Queries, Store
from interlock.gateway.domain.betas import Beta
from interlock.gateway.domain.directory import DirectoryRows, Route, RouteSpec
from interlock.gateway.store.limits import limit_of
from interlock.gateway.store.routes import deployment_of, provider_of, weight_of

SQL = Queries("interlock.gateway")
# Versions of a route that an edge holds beside those that answer: whoever tries one out asks for it by number.
_VERSIONS_HELD: Final = 16
_FLAGS_MAX: Final = 10_000


async def load_directory(store: Store) -> DirectoryRows:
    """Return all rows of all tenants, for the memory of an edge."""
    async with store.ops("the edge holds routes and limits in memory") as tx:
        providers = await tx.fetch(SQL.all_providers)
        deployments = await tx.fetch(SQL.all_deployments)
        routes = await tx.fetch(SQL.all_routes, _VERSIONS_HELD)
        weights = await tx.fetch(SQL.all_weights)
        limits = await tx.fetch(SQL.all_limits)
        tiers = await tx.fetch(SQL.all_tiers)
    flags = await load_flags(store, _FLAGS_MAX)
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
        betas=tuple(_beta(each) for each in flags if each.spec.match_kind is not None),
    )


def _beta(flag: Flag) -> Beta:
    spec = flag.spec
    allowed = tuple(parse_id(each.partition("_")[0], each) for each in spec.targets)
    window = (spec.from_us, flag.until_us)
    return Beta(flag.organization_id, flag.name, spec.match_kind or "", spec.match_value, allowed, *window)
