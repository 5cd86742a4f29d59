"""What each system adds to control and to a worker, put together from one place.

Holds no logic: each system's own file here builds its services, this one only collects them.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from interlock.console import Console
from interlock.foundation.artifacts import ArtifactsConfig, ArtifactStore
from interlock.foundation.control.route import Route
from interlock.foundation.flags import KillSwitches
from interlock.foundation.leases.ticks import Tick
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.telemetry import EventLog
from interlock.retrieval import RetrievalConfig
from interlock.retrieval.service.samples import Samples
from interlock.wiring.agents import serve_offline_models, task_loops, task_routes_of, task_uses
from interlock.wiring.crawling import CrawlRole, crawling_of, crawling_routes
from interlock.wiring.evaluating import evals_of, evals_pages, evals_routes, evals_workers
from interlock.wiring.ground import Ground
from interlock.wiring.indexing import indexing_loops, indexing_of, indexing_pages, indexing_routes
from interlock.wiring.playing import playground_routes
from interlock.wiring.pooling import gate_watch, scheduling_routes
from interlock.wiring.probing import probing_of
from interlock.wiring.rollouts import rollout_routes_of, rollout_worker
from interlock.wiring.searching import Reading, embedder_of, reading_of, reading_pages, reading_routes

Loop = Callable[[], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Shared:
    """What every system of one process builds upon."""

    ground: Ground
    store: Store
    artifacts: ArtifactStore
    events: EventLog
    switches: KillSwitches
    lookout: Lookout

    @classmethod
    def of(cls, ground: Ground, store: Store, switches: KillSwitches) -> "Shared":
        """Return the shared parts of this process."""
        artifacts = ArtifactStore(ground.directory.artifacts, ground.config.section(ArtifactsConfig))
        events = EventLog(store, ground.clock, ground.redactor, ground.telemetry())
        return cls(ground, store, artifacts, events, switches, Lookout(store, ground.clock))


def served_reading(shared: Shared) -> Reading:
    """Return what reads the index for callers, and compares some of it with the exact answer."""
    ground, store = shared.ground, shared.store
    incidents = evals_of(ground, store, shared.events).incidents
    samples = Samples(ground.config.section(RetrievalConfig).recall_probe_every)
    return reading_of(ground, store, embedder_of(ground), shared.switches, incidents, samples)


def system_routes(shared: Shared, reading: Reading, page: Console) -> list[Route]:
    """Return the routes of the systems behind control."""
    ground, store = shared.ground, shared.store
    indexing = indexing_of(ground, store, shared.switches)
    return [
        *indexing_routes(ground, store, indexing),
        *indexing_pages(ground, indexing, page),
        *reading_routes(ground, reading),
        *reading_pages(ground, reading, page),
        *crawling_routes(ground, crawling_of(ground, store, shared.events), page),
        *evals_routes(ground, store, shared.events, shared.artifacts),
        *evals_pages(ground, store, shared.events, page),
        *rollout_routes_of(ground, store, shared.events, page),
        *scheduling_routes(ground, store, shared.events, page),
        *playground_routes(ground, store, shared.events, page),
        *task_routes_of(ground, task_uses(ground, store, shared.artifacts), page),
    ]


def control_loops(ground: Ground, reading: Reading) -> list[Loop]:
    """Return the loops that control runs for the systems beside its routes."""
    recall = [] if reading.recall is None else [reading.recall.run]
    return [partial(serve_offline_models, ground), *recall]


def system_loops(shared: Shared) -> tuple[list[Loop], list[Tick]]:
    """Return the loops that a worker runs for the systems, each until it is cancelled, and their ticks."""
    ground, store, lookout = shared.ground, shared.store, shared.lookout
    indexing = indexing_of(ground, store, shared.switches)
    embedder = embedder_of(ground)
    incidents = evals_of(ground, store, shared.events).incidents
    reading = reading_of(ground, store, embedder, shared.switches, incidents)
    eval_loops, renewal = evals_workers(ground, store, shared.events, shared.artifacts, lookout)
    crawl = CrawlRole(ground, store, shared.artifacts, shared.events, indexing.sink, shared.switches)
    loops: list[Loop] = [
        lookout.run,
        *indexing_loops(ground, store, indexing, embedder, lookout),
        probing_of(ground, store, indexing, reading).run,
        *eval_loops,
        rollout_worker(ground, store, shared.events, lookout).run,
        partial(crawl.run, lookout),
        *task_loops(ground, store, shared.artifacts, shared.switches, lookout),
    ]
    return loops, [renewal, gate_watch(ground, store, shared.events)]
