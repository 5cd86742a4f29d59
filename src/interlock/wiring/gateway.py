"""What the gateway gives to the other systems of one process: how they call models, and weights of routes.

Holds no logic; the edge itself is put together in `edge.py`.
"""

from interlock.console import Console
from interlock.console.gateway import GatewayPages, gateway_pages
from interlock.console.gateway_forms import GatewayForms, gateway_forms
from interlock.contracts.gates import VerdictVerifier, VerifyingKeys
from interlock.evals.domain.verdict import TokenVerifier
from interlock.evals.service.signing import PublishedKeys
from interlock.foundation.control.route import Route
from interlock.foundation.flags import KillService
from interlock.foundation.identity import IdentityConfig, IdentityService, LentKeys
from interlock.foundation.secrets import SecretService
from interlock.foundation.store import Store
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import (
    Actuator,
    EdgeConfig,
    GatewayModelClient,
    InferenceConfig,
    LimitsService,
    RouteService,
    UpstreamService,
    UsageConfig,
    UsageService,
    Weights,
    forget_arm_counts,
    usage_routes,
)
from interlock.gateway import routes as gateway_routes
from interlock.wiring.ground import Ground


def usage_days(ground: Ground) -> dict[str, int]:
    """Return how long the tables of usage are kept."""
    config = ground.config.section(UsageConfig)
    return {"gateway_usage_minutes": config.minutes_days, "gateway_usage_hours": config.hours_days}


def lent_keys(ground: Ground, store: Store) -> LentKeys:
    """Return what lends keys of kind `il_task_`."""
    config = ground.config.section(IdentityConfig)
    return LentKeys(store, ground.audit(), ground.clock, ground.dice, ground.ids, ground.pepper, config=config)


def verdicts(store: Store) -> tuple[VerdictVerifier, VerifyingKeys]:
    """Return the check of verdict tokens and where its keys are published."""
    return TokenVerifier(), PublishedKeys(store)


def weights_of(ground: Ground, identity: IdentityService) -> Weights:
    """Return what changes the weights of routes."""
    return Weights(identity, *verdicts(identity.store), ground.audit(), ground.clock)


async def forget_arms(ground: Ground, store: Store) -> None:
    """Delete counts of arms that are too old for anybody."""
    await forget_arm_counts(store, ground.clock, ground.config.section(EdgeConfig))


def routing(
    ground: Ground, identity: IdentityService, secrets: SecretService
) -> tuple[UpstreamService, RouteService, Weights]:
    """Return the use cases of providers and deployments, routes, and weights."""
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    weights = weights_of(ground, identity)
    return (
        UpstreamService(identity, secrets, audit, clock, ids),
        RouteService(identity, weights, audit, clock, ids),
        weights,
    )


def front_routes(
    ground: Ground, store: Store, page: Console, secrets: SecretService, kills: KillService
) -> list[Route]:
    """Return what control serves of the gateway, and its pages."""
    clock = ground.clock
    limits = LimitsService(page.identity, ground.audit(), clock, ground.ids)
    upstreams, versions, weights = routing(ground, page.identity, secrets)
    usage = UsageService(store, clock, ground.config.section(UsageConfig))
    pages = GatewayPages(page.frame, versions, upstreams, limits, usage, kills, clock, page.keys)
    page.samples["route"] = pages.sampler
    page.watchers.update({"limits": pages.limits_standing, "kills": pages.kills_standing})
    return [
        *gateway_routes(page.lookup, limits, upstreams, versions, weights),
        *usage_routes(usage),
        *gateway_pages(pages),
        *gateway_forms(GatewayForms(limits, weights)),
    ]


def actuator(ground: Ground, store: Store) -> Actuator:
    """Return what a rollout moves, and what a monitor reads."""
    identity = IdentityService(
        store, ground.audit(), ground.clock, ground.ids, ground.pepper, ground.config.section(IdentityConfig)
    )
    return Actuator(weights_of(ground, identity), identity)


def model_client(ground: Ground, store: Store) -> GatewayModelClient:
    """Return the front door from inside: that of the setting, else the one that the data directory names."""
    config = ground.config.section(InferenceConfig)
    file = ground.directory.url_file

    def base_url() -> str | None:
        if config.url:
            return config.url
        try:
            return file.read_text(encoding="ascii").strip() or None
        except OSError:
            return None

    client = Client(ground.config.section(ClientLimits), ground.clock)
    return GatewayModelClient(lent_keys(ground, store), client, base_url, ground.clock, config)
