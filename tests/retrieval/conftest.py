"""A world, the services that read it, and HTTP over them."""

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import IdentityService, authorize
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from interlock.foundation.telemetry import Metrics
from interlock.retrieval.metrics import SearchMetrics
from interlock.retrieval.routes.answers import answer_routes
from interlock.retrieval.routes.explain import explain_routes
from interlock.retrieval.routes.search import search_routes
from interlock.retrieval.service.answers import AnswerService
from interlock.retrieval.service.emitting import Emitter
from interlock.retrieval.service.explain import ExplainService
from interlock.retrieval.service.search import SearchParts, SearchService
from tests.foundation.control.conftest import Client, Keys
from tests.retrieval.world import PATIENT, WordEmbedder, World
from tests.support.store import IDS

TOKEN_KEY = b"k" * 32
READ, DELEGATE, EXPLAIN = "retrieval:read", "retrieval:delegate", "retrieval:explain"


@pytest.fixture
async def world(store):
    return await World.make(store)


def searching(store, *, embedder=None, incidents=None, config=None):
    """A search service over a store."""
    clock = SystemClock()
    audit = AuditLog(clock, Redactor())
    metrics = SearchMetrics(Metrics())
    emitter = Emitter(store, clock, IDS, audit, metrics, b"q" * 32, incidents)
    members = IdentityService(store, audit, clock, IDS, TOKEN_KEY)
    return SearchService(
        SearchParts(
            store, members, embedder or WordEmbedder(), emitter, metrics, clock, IDS, TOKEN_KEY,
            config or PATIENT,
        )
    )  # fmt: skip


@pytest.fixture
def service(store):
    return searching(store)


@pytest.fixture
def ask(world, service):
    """`await ask("ann", "POST", path, body)`: a call with ann's key; `may` are the scopes of the key."""
    clock, audit = SystemClock(), AuditLog(SystemClock(), Redactor())
    keys = Keys()
    kit = Kit(
        store=world.store, audit=audit, gate=Gate(keys, None, authorize), ids=IDS, clock=clock, dice=SystemDice(),
        key=b"k",
    )  # fmt: skip
    explain = ExplainService(service.parts, audit)
    routes = [
        *search_routes(service, clock),
        *answer_routes(AnswerService(service), clock),
        *explain_routes(explain, service),
    ]
    app = build_app(routes, kit)

    async def call(who, method, path, body=None, may=(READ,), **headers):
        name = f"{who}:{','.join(sorted(may))}"
        keys.known[name] = Principal(
            world.people[who], PrincipalKind.USER, world.organization_id,
            memberships=(Membership(Role.OWNER, None),), scopes=frozenset(may),
        )  # fmt: skip
        return await Client(app, {"authorization": f"Bearer {name}"})(method, path, body, **headers)

    return call
