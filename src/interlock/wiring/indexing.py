"""What writes the index, put together: sources, documents, the sink of the crawler, and the loops of a worker.

Holds no logic; what reads the index is wired beside it.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlock.console import Console
from interlock.console.sources import SourcePages, source_pages
from interlock.contracts.documents import DocumentSink
from interlock.foundation.control.route import Route
from interlock.foundation.flags import KillSwitches
from interlock.foundation.identity import IdentityConfig, IdentityService
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.retrieval import RetrievalConfig
from interlock.retrieval.adapters.reading.pool import ReadingPool
from interlock.retrieval.domain.embedding import Embedder
from interlock.retrieval.metrics import IndexMetrics
from interlock.retrieval.routes.documents import document_routes
from interlock.retrieval.routes.sources import source_routes
from interlock.retrieval.service.backlog import Room
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.embed import Adoption, IndexWork
from interlock.retrieval.service.ingest import Ingest
from interlock.retrieval.service.read import DocumentReader
from interlock.retrieval.service.sink import Sink
from interlock.retrieval.service.sources import SourceService
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.service.sync import SyncWork
from interlock.retrieval.service.tokens import TokenIssuer
from interlock.retrieval.store.ingest.work import jobs_spec, syncs_spec
from interlock.retrieval.worker import BacklogWatch, Housekeeping
from interlock.wiring.ground import Ground


@dataclass(frozen=True, slots=True)
class Indexing:
    """The services that write, of one process."""

    sources: SourceService
    documents: DocumentService
    room: Room
    stops: Stops
    sink: DocumentSink
    pool: ReadingPool


def indexing_of(ground: Ground, store: Store, switches: KillSwitches) -> Indexing:
    """Return the services that write."""
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    config = ground.config.section(RetrievalConfig)
    pool, room, stops = ReadingPool(config), Room(store, clock, ids, config), Stops(switches)
    ingest = Ingest(store=store, audit=audit, clock=clock, ids=ids, pool=pool)
    documents = DocumentService(
        store=store, audit=audit, clock=clock, ingest=ingest, room=room, stops=stops, config=config
    )
    sources = SourceService(
        store=store, audit=audit, clock=clock, ids=ids, room=room, roots=roots_of(ground, config), config=config
    )
    return Indexing(sources, documents, room, stops, Sink(store, sources, documents, room), pool)


def roots_of(ground: Ground, config: RetrievalConfig) -> list[Path]:
    """Return the folders under which folder sources may lie."""
    return [Path(each) for each in config.allowed_roots] or [ground.directory.root / "import"]


def indexing_routes(ground: Ground, store: Store, indexing: Indexing) -> list[Route]:
    """Return the routes that write, and the one that reads a single document."""
    config, issuer = ground.config.section(RetrievalConfig), TokenIssuer(ground.pepper)
    reader = document_reader(ground, store, indexing)
    return [
        *source_routes(indexing.sources, issuer, ground.clock, config),
        *document_routes(indexing.documents, reader, issuer, config),
    ]


def document_reader(ground: Ground, store: Store, indexing: Indexing) -> DocumentReader:
    """Return what reads single documents."""
    audit, clock = ground.audit(), ground.clock
    members = IdentityService(store, audit, clock, ground.ids, ground.pepper, ground.config.section(IdentityConfig))
    return DocumentReader(store, members, audit, clock, indexing.stops)


def indexing_pages(ground: Ground, indexing: Indexing, page: Console) -> list[Route]:
    """Return the pages of the console about sources and documents."""
    pages = SourcePages(page.frame, indexing.sources, indexing.documents, ground.clock)
    page.watchers["sources"] = pages.standing
    return source_pages(pages, page.samples)


def indexing_loops(
    ground: Ground, store: Store, indexing: Indexing, embedder: Embedder | None, lookout: Lookout
) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """Return the loops of a worker."""
    config, clock = ground.config.section(RetrievalConfig), ground.clock
    jobs, syncs = jobs_spec(config.lease_ttl_s), syncs_spec(config.lease_ttl_s)
    work = IndexWork(
        store=store, spec=jobs, documents=indexing.documents, embedder=embedder, clock=clock, config=config
    )
    sync = SyncWork(
        store=store,
        spec=syncs,
        sources=indexing.sources,
        documents=indexing.documents,
        room=indexing.room,
        stops=indexing.stops,
        clock=clock,
        config=config,
    )
    tables = LeaseTable(jobs, store), LeaseTable(syncs, store)
    embedding = LeaseWorker(jobs, tables[0], work.run, clock, ground.name, slots=config.embed_slots)
    listing = LeaseWorker(syncs, tables[1], sync.run, clock, ground.name, slots=config.sync_slots)
    embedding.told_by(lookout, tables[0].due)
    listing.told_by(lookout, tables[1].due)
    watch = BacklogWatch(store, syncs, clock, IndexMetrics(ground.metrics))
    adoption = None if embedder is None else Adoption(store, ground.ids, embedder)
    keeper = Housekeeping(indexing.documents, syncs, clock, ground.ids, config, adoption)
    return [embedding.run, listing.run, keeper.run, watch.run]
