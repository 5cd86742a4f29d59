"""The playground put together: the front door from inside, aliases, suites, in one page.

Holds no logic.
"""

from interlock.console import Console
from interlock.console.playground import Playground, PlaygroundParts, playground_pages
from interlock.foundation.control.route import Route
from interlock.foundation.store import Store
from interlock.foundation.telemetry import EventLog
from interlock.gateway import RouteService
from interlock.wiring.evaluating import evals_of
from interlock.wiring.gateway import model_client, weights_of
from interlock.wiring.ground import Ground


def playground_routes(ground: Ground, store: Store, events: EventLog, page: Console) -> list[Route]:
    """Return the routes of the playground."""
    parts = PlaygroundParts(
        frame=page.frame,
        models=model_client(ground, store),
        routes=RouteService(page.identity, weights_of(ground, page.identity), ground.audit(), ground.clock, ground.ids),
        identity=page.identity,
        stories=page.lookup,
        suites=evals_of(ground, store, events).suites,
        config=page.config,
    )
    return playground_pages(Playground(parts))
