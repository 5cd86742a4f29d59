"""The probe of revocation, put together from what writes the index and what reads it.

Holds no logic.
"""

from interlock.foundation.store import Store
from interlock.retrieval import RetrievalConfig
from interlock.retrieval.adapters.reading.inline import InlineReading
from interlock.retrieval.metrics import ProbeMetrics
from interlock.retrieval.service.ingest import Ingest
from interlock.retrieval.service.probing import RevokeProbe
from interlock.retrieval.worker import Probing
from interlock.wiring.ground import Ground
from interlock.wiring.indexing import Indexing, document_reader
from interlock.wiring.searching import Reading


def probing_of(ground: Ground, store: Store, indexing: Indexing, reading: Reading) -> Probing:
    """Return the loop of a worker that probes sources."""
    audit, clock, ids = ground.audit(), ground.clock, ground.ids
    config = ground.config.section(RetrievalConfig)
    ingest = Ingest(store=store, audit=audit, clock=clock, ids=ids, pool=InlineReading(config))
    probe = RevokeProbe(
        store=store,
        search=reading.search,
        reader=document_reader(ground, store, indexing),
        documents=indexing.documents,
        ingest=ingest,
        audit=audit,
        clock=clock,
        ids=ids,
        metrics=ProbeMetrics(ground.metrics),
        config=config,
        owner=ground.name,
    )
    return Probing(probe, clock)
