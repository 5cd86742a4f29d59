"""What control serves of the gateway: stories, limits, and where aliases lead.

Serves no inference; that is the edge's port. Switches are the flags' routes.
"""

from interlock.foundation.control import Route
from interlock.gateway.routes.admin import admin_routes
from interlock.gateway.routes.described import described
from interlock.gateway.routes.prices import price_routes
from interlock.gateway.routes.requests import request_routes
from interlock.gateway.routes.usage import usage_routes
from interlock.gateway.service.limits import LimitsService
from interlock.gateway.service.route_versions import RouteService
from interlock.gateway.service.stories import Stories
from interlock.gateway.service.upstreams import UpstreamService
from interlock.gateway.service.weights import Weights

__all__ = ["described", "routes", "usage_routes"]


def routes(
    stories: Stories, limits: LimitsService, upstreams: UpstreamService, versions: RouteService, weights: Weights
) -> list[Route]:
    """Return the routes of the gateway."""
    return [*request_routes(stories, limits), *admin_routes(upstreams, versions, weights), *price_routes(upstreams)]
