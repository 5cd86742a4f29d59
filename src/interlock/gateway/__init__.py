"""The front door: keys, limits, routing and a story for every request, in OpenAI's dialect.

Entry points: `EdgeProcess` (the public port), `routes` (what control serves of it), `register_engine`,
`GatewayModelClient` (how the platform's own work calls models).
Invariants: every request has one story that names the deciding rule; a refusal consumes nothing; while the
store answers, admitted <= limit over all processes; a client that goes away frees what it held.
"""

from interlock.gateway.adapters.http_server import Edge, Readiness
from interlock.gateway.adapters.model_client import GatewayModelClient
from interlock.gateway.config import EdgeConfig, InferenceConfig, LimitsConfig, UsageConfig
from interlock.gateway.domain.capacity import Capacity, Load, size
from interlock.gateway.domain.directory import Dimension, LimitMode, LimitScope
from interlock.gateway.domain.usage import GroupBy, Span
from interlock.gateway.process import EdgeParts, EdgeProcess
from interlock.gateway.routes import described, routes, usage_routes
from interlock.gateway.routes.requests import LimitBody, limit_wanted
from interlock.gateway.service.arms import NoVerdicts
from interlock.gateway.service.limits import LimitsService
from interlock.gateway.service.register import PoolEngine, UrlEngine, list_models, register_engine, register_offline
from interlock.gateway.service.route_versions import RouteService
from interlock.gateway.service.stories import Stories, as_curl
from interlock.gateway.service.upstreams import UpstreamService
from interlock.gateway.service.usage import UsageService
from interlock.gateway.service.weights import Actuator, Weights, WeightWanted
from interlock.gateway.store.kill_targets import kill_targets
from interlock.gateway.store.usage import UsageQuery, roll_up
from interlock.gateway.worker import forget_arm_counts

__all__ = [
    "Actuator", "Capacity", "Dimension", "Edge", "EdgeConfig", "EdgeParts", "EdgeProcess", "GatewayModelClient",
    "GroupBy", "InferenceConfig", "LimitBody", "LimitMode", "LimitScope", "LimitsConfig", "LimitsService", "Load",
    "NoVerdicts", "PoolEngine", "Readiness", "RouteService", "Span", "Stories", "UpstreamService", "UrlEngine",
    "UsageConfig", "UsageQuery", "UsageService", "WeightWanted", "Weights", "as_curl", "described", "forget_arm_counts",
    "kill_targets", "limit_wanted", "list_models", "register_engine", "register_offline", "roll_up", "routes", "size",
    "usage_routes",
]  # fmt: skip
