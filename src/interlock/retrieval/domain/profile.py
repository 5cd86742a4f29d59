"""The settings that a search runs with, as one digest: what a verdict of evals is about.

There is one profile, `default`; it changes with the code.
"""

import hashlib
import json
from typing import Final

from interlock.retrieval.domain import bm25, fuse, plan
from interlock.retrieval.domain.analyzer import ANALYZER_ID

DEFAULT: Final = "default"


def profile_digest(embedder_id: str) -> str:
    """Return the digest of analyzer, embedder, plan limits and weights."""
    settings = {
        "analyzer": ANALYZER_ID,
        "embedder": embedder_id,
        "bm25": [bm25.K1, bm25.B, bm25.COMMON_POSTINGS, bm25.COMMON_SHARE],
        "plan": [plan.EXACT_CHUNKS_MAX, plan.LEG_DEPTH_MIN, plan.RESCORED_MIN, plan.RESCORED_A_HIT],
        "width": [plan.WIDENED, plan.WIDTH_MAX],
        "fusion": [fuse.RRF_K, fuse.RERANKED_MAX, fuse.WEIGHTS],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
