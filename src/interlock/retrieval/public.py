"""What pages read of retrieval: sources, documents, searches and why. Loaded only where pages are served.

Holds nothing of its own.
"""

from interlock.retrieval.domain.access import acl_json
from interlock.retrieval.domain.types import LISTING_KINDS
from interlock.retrieval.routes.sources import source_id_of
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.explain import ExplainService
from interlock.retrieval.service.looking import Look, Trace
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.service.sources import SourceService, SourceTold
from interlock.retrieval.store.ingest.listing import DocumentRow
from interlock.retrieval.store.ingest.probes import ProbeTold
from interlock.retrieval.store.reading.history import SearchSeen

__all__ = [
    "LISTING_KINDS", "DocumentRow", "DocumentService", "ExplainService", "Look", "ProbeTold", "SearchSeen",
    "SearchService", "SourceService", "SourceTold", "Trace", "acl_json", "source_id_of",
]  # fmt: skip
