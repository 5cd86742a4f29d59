"""What reads the index, put together: search and what hangs on it, for control and for other systems.

Holds no logic; what writes the index is wired beside it.
"""

import hashlib
from dataclasses import dataclass

from interlock.console import Console
from interlock.console.retrieval import RetrievalPages, retrieval_pages
from interlock.contracts.incidents import IncidentSink
from interlock.contracts.retrieval import Retriever
from interlock.foundation.control.route import Route
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import IdentityConfig, IdentityService
from interlock.foundation.store import Store
from interlock.retrieval import RetrievalConfig
from interlock.retrieval.adapters.minilm import LocalEmbedder
from interlock.retrieval.domain.embedding import Embedder
from interlock.retrieval.metrics import RecallMetrics, SearchMetrics
from interlock.retrieval.routes.answers import answer_routes
from interlock.retrieval.routes.explain import explain_routes
from interlock.retrieval.routes.search import search_routes
from interlock.retrieval.service.answers import AnswerService
from interlock.retrieval.service.emitting import Emitter
from interlock.retrieval.service.explain import ExplainService
from interlock.retrieval.service.recall import RecallProbe
from interlock.retrieval.service.retriever import LocalRetriever
from interlock.retrieval.service.samples import Samples
from interlock.retrieval.service.search import SearchParts, SearchService
from interlock.retrieval.service.stops import Stops
from interlock.wiring.ground import Ground


@dataclass(frozen=True, slots=True)
class Reading:
    """The services that read, of one process."""

    search: SearchService
    answers: AnswerService
    explain: ExplainService
    recall: RecallProbe | None = None

    @property
    def retriever(self) -> Retriever:
        """What other systems of this process search through."""
        return LocalRetriever(self.answers)


def embedder_of(ground: Ground) -> Embedder | None:
    """Return what turns texts into vectors here; None where words alone are wanted. Raises `BrokenWorldError`."""
    config = ground.config.section(RetrievalConfig)
    if config.embedder not in {"local", "none"}:
        raise BrokenWorldError("setting_invalid", f"retrieval.embedder is {config.embedder!r}", "use local or none")
    return LocalEmbedder(config) if config.embedder == "local" else None


def reading_of(
    ground: Ground,
    store: Store,
    embedder: Embedder | None,
    switches: KillSwitches,
    incidents: IncidentSink | None = None,
    samples: Samples | None = None,
) -> Reading:
    """Return the services that read; with `samples`, what compares them with exact answers as well."""
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    metrics = SearchMetrics(ground.metrics)
    key = hashlib.sha256(b"interlock-retrieval-queries\x00" + ground.pepper).digest()
    members = IdentityService(store, audit, clock, ids, ground.pepper, ground.config.section(IdentityConfig))
    emitter = Emitter(store, clock, ids, audit, metrics, key, incidents)
    config = ground.config.section(RetrievalConfig)
    stops = Stops(switches)
    parts = SearchParts(
        store, members, embedder, emitter, metrics, clock, ids, ground.pepper, config, stops, samples
    )  # fmt: skip
    search = SearchService(parts)
    recall = None if samples is None else RecallProbe(search, samples, RecallMetrics(ground.metrics))
    return Reading(search, AnswerService(search), ExplainService(parts, audit), recall)


def reading_routes(ground: Ground, reading: Reading) -> list[Route]:
    """Return the routes that read."""
    return [
        *search_routes(reading.search, ground.clock),
        *answer_routes(reading.answers, ground.clock),
        *explain_routes(reading.explain, reading.search),
    ]


def reading_pages(ground: Ground, reading: Reading, page: Console) -> list[Route]:
    """Return the pages of the console that look into searches."""
    pages = RetrievalPages(page.frame, reading.search, reading.explain, ground.clock)
    return retrieval_pages(pages, page.samples)
