"""A world, and the services that read it."""

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock
from interlock.foundation.identity import IdentityService
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Metrics
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.metrics import SearchMetrics
from interlock.retrieval.service.emitting import Emitter
from interlock.retrieval.service.search import SearchParts, SearchService
from tests.retrieval.world import WordEmbedder, World
from tests.support.store import IDS

TOKEN_KEY = b"k" * 32


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
            config or RetrievalConfig(),
        )
    )  # fmt: skip


@pytest.fixture
def service(store):
    return searching(store)
