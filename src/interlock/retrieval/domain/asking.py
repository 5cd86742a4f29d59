"""For whom the index is read, and what a question must look like.

Resolves nothing; who somebody is here and what they may read is in the store.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.contracts.retrieval import SearchQuery
from interlock.retrieval.domain.access import EVERYONE_ID

QUERY_CHARS_MAX: Final = 4_000
HITS_MAX: Final = 100
_LABELS_MAX: Final = 20
_SOURCES_MAX: Final = 1_000
_PREFIX_MAX: Final = 2_048


@dataclass(frozen=True, slots=True)
class Reader:
    """`roots` are walked up through groups, `extras` are held besides. `kind` is user, sa, group, everyone or ext."""

    name: str
    kind: str
    roots: tuple[UUID, ...]
    extras: tuple[UUID, ...] = (EVERYONE_ID,)


def is_by_document(query: SearchQuery) -> bool:
    """Tell whether documents have to be looked at, and not only slots."""
    return bool(query.labels) or query.container_prefix is not None or query.updated_after_us is not None


def query_problem(query: SearchQuery) -> tuple[str, str] | None:
    """Return the code and the words of what is wrong with a search, None where nothing is."""
    text = query.text
    labels = [part for pair in query.labels.items() for part in pair]
    prefix = query.container_prefix or ""
    checks = (
        (not text.strip(), "invalid_query", "A query has words."),
        ("\x00" in text, "invalid_query", "A query has no NUL."),
        (len(text) > QUERY_CHARS_MAX, "invalid_query", f"A query has at most {QUERY_CHARS_MAX} characters."),
        (not 1 <= query.hits <= HITS_MAX, "invalid_request", f"k is 1 to {HITS_MAX}."),
        (not 1 <= query.passages <= HITS_MAX, "invalid_request", f"passages_per_document is 1 to {HITS_MAX}."),
        (len(query.sources) > _SOURCES_MAX, "invalid_request", f"At most {_SOURCES_MAX} sources."),
        (len(query.labels) > _LABELS_MAX, "invalid_request", f"At most {_LABELS_MAX} labels."),
        (any("\x00" in part for part in (*labels, prefix)), "invalid_request", "A filter has no NUL."),
        (len(prefix) > _PREFIX_MAX, "invalid_request", f"container_prefix has at most {_PREFIX_MAX} characters."),
    )
    return next(((code, words) for is_wrong, code, words in checks if is_wrong), None)
