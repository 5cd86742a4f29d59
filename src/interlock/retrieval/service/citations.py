"""Verification of citations: is this what the document says there, for somebody who may read it.

An unreadable document and one that never was are told apart by nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.service.readers import reader_of
from interlock.retrieval.service.search import SearchParts
from interlock.retrieval.store.reading import guard, history
from interlock.retrieval.store.reading.search import epoch_of

CITATIONS_MAX: Final = 100
_VERSION_MAX: Final = 2**31 - 1
Texts = dict[tuple[UUID, int], history.VersionText]


@dataclass(frozen=True, slots=True)
class Cited:
    """A claim: `text[start:end]` of a version has this digest. `document_id` None is an id that is none."""

    document_id: UUID | None
    version: int
    start: int
    end: int
    quote_sha256: str


@dataclass(frozen=True, slots=True)
class Verified:
    """`reason` is None for what holds, else `not_found`, `changed` (the version is not kept) or `mismatch`."""

    reason: str | None

    @property
    def is_verified(self) -> bool:
        """Whether the claim holds."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Verification:
    """Results in the order of the claims, and the epoch they hold for."""

    results: tuple[Verified, ...]
    epoch: int


async def verify(parts: SearchParts, scope: Scope, principal: str | None, cited: Sequence[Cited]) -> Verification:
    """Verify citations as a reader. Raises what naming a reader raises, and `invalid_request` for too many."""
    if len(cited) > CITATIONS_MAX:
        raise InterlockError("invalid_request", f"At most {CITATIONS_MAX} citations.", detail={"field": "citations"})
    shut: frozenset[UUID] = frozenset()
    if parts.stops is not None:
        parts.stops.require(scope)
        shut = parts.stops.shut(scope)
    reader = await reader_of(parts.store, parts.members, scope, principal)
    await parts.emitter.delegated(scope, reader, "citations")
    async with parts.store.snapshot(scope) as tx:
        epoch = await epoch_of(tx)
        closure = await guard.closure_of(tx, reader, epoch)
        wanted = sorted({each.document_id for each in cited if each.document_id is not None})
        judged = await guard.judge(tx, closure, wanted, parts.clock.now_us())
        readable = {each for each, found in judged.items() if found.is_readable and found.source_id not in shut}
        named = {
            (each.document_id, each.version)
            for each in cited
            if each.document_id in readable and 0 < each.version <= _VERSION_MAX
        }
        texts = await history.version_texts(tx, [(one, version) for one, version in named if one is not None])
        texts |= await _hidden_then(tx, reader, texts, parts.clock.now_us())
    return Verification(tuple(Verified(_problem(each, texts)) for each in cited), epoch)


async def _hidden_then(tx: Transaction, reader: Reader, texts: Texts, now_us: int) -> Texts:
    """Return the older versions that the reader could not read in their time, as ones that are not kept.

    What was taken out of a document before somebody was let in must not be guessed at, digest by digest.
    """
    older = [each for each, found in texts.items() if found.text is not None and each[1] < found.newest]
    closures: dict[int, guard.Closure] = {}
    hidden: Texts = {}
    for each, epoch in (await history.last_epochs(tx, older)).items():
        if epoch is not None:
            if epoch not in closures:
                closures[epoch] = await guard.closure_of(tx, reader, epoch)
            then = await history.access_at(tx, closures[epoch], each[0], epoch, now_us)
            if then is not None and then.is_eligible:
                continue
        hidden[each] = replace(texts[each], text=None)
    return hidden


def _problem(each: Cited, texts: Texts) -> str | None:
    found = None if each.document_id is None else texts.get((each.document_id, each.version))
    if found is None or each.version > found.newest:
        return "not_found"
    if found.text is None:
        return "changed"
    if not 0 <= each.start < each.end <= len(found.text):
        return "mismatch"
    quote = found.text[each.start : each.end]
    return None if hashlib.sha256(quote.encode()).hexdigest() == each.quote_sha256.lower() else "mismatch"
