"""What was: a document's access at an epoch, the text of a version, the record of a search. Changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from interlock.foundation.store import Transaction
from interlock.retrieval.domain.access import effective, ruling, set_digest
from interlock.retrieval.store.reading.guard import Closure, acl_from, chain_of, giver_of
from interlock.retrieval.store.reading.search import SQL, moment


@dataclass(frozen=True, slots=True)
class AccessAt:
    """What counted for a reader and a document at an epoch; `rule` is `deleted`, `dark` and so on, or a ruling's."""

    is_eligible: bool
    rule: str
    acl_digest: str | None = None
    clause: tuple[str, ...] = ()
    container: str | None = None


@dataclass(frozen=True, slots=True)
class VersionText:
    """The text of a version, None where it is not kept any more; `newest` is the document's version now."""

    newest: int
    text: str | None


@dataclass(frozen=True, slots=True)
class SearchSeen:
    """What was recorded of a search."""

    request_id: UUID
    created_at: datetime
    kind: str
    caller_id: UUID
    principal: str
    epoch: int
    plan: str
    profile_digest: str
    eligible_chunks: int
    eligible_documents: int
    candidates: Mapping[str, list[list[Any]]]
    fused: list[list[Any]]
    emitted: list[dict[str, Any]]
    dropped: list[list[str]]
    degraded: list[str]
    timing: Mapping[str, float]
    answer_id: UUID | None


async def access_at(tx: Transaction, closure: Closure, document_id: UUID, epoch: int, now_us: int) -> AccessAt | None:
    """Return what counted at an epoch; None for a document that never was. `closure` is of the same epoch."""
    row = await tx.fetchrow(SQL.document_at, tx.scope.organization_id, document_id, epoch, moment(now_us))
    if row is None:
        return None
    closed = _closed(row, closure, epoch)
    if closed is not None:
        return AccessAt(is_eligible=False, rule=closed)
    folders = await _folders_at(tx, row["source_id"], row["container_id"], epoch)
    own, chain = acl_from(row["own"]), chain_of(row["container_id"], folders)
    counted = effective(own, [folder for _, folder in chain])
    found = ruling(counted, closure.names)
    rule, container = str(found.rule), giver_of(own, chain, found)
    if container is not None and found.is_allowed:
        rule = "inherited"
    return AccessAt(found.is_allowed, rule, set_digest(counted).hex(), found.clause, container)


def _closed(row: Any, closure: Closure, epoch: int) -> str | None:
    """Return why nothing of it could be seen, whatever the list says."""
    if row["state"] is None or row["state"] in {"deleted", "purged"}:
        return "deleted"
    if row["state"] != "live":
        return "no_acl"
    if (row["source_state"] == "dark" or row["removed_us"] is not None) and row["state_epoch"] <= epoch:
        return "dark"
    if not row["is_confirmed"]:
        return "expired"
    if row["mode"] == "observe" and not closure.ids.intersection(row["observe_principals"]):
        return "dark"
    return None


async def _folders_at(tx: Transaction, source_id: UUID, container_id: int | None, epoch: int) -> dict[int, Any]:
    folders: dict[int, Any] = {}
    fresh = set() if container_id is None else {container_id}
    while fresh:
        rows = await tx.fetch(SQL.folders_at, tx.scope.organization_id, source_id, sorted(fresh), epoch)
        folders |= {row["id"]: row for row in rows}
        fresh = {row["parent_id"] for row in rows if row["parent_id"] is not None} - set(folders)
    return folders


async def document_turns(tx: Transaction, document_id: UUID, limit: int) -> list[tuple[int, str]]:
    """Return the epochs at which something about a document became another, newest first, each with its cause."""
    rows = await tx.fetch(SQL.document_turns, tx.scope.organization_id, document_id, limit)
    return [(row["epoch"], row["cause"]) for row in rows]


async def version_texts(tx: Transaction, wanted: Sequence[tuple[UUID, int]]) -> dict[tuple[UUID, int], VersionText]:
    """Return the texts of versions of documents."""
    ids, versions = sorted({each for each, _ in wanted}), sorted({version for _, version in wanted})
    rows = await tx.fetch(SQL.version_texts, tx.scope.organization_id, ids, versions)
    texts = {(row["id"], row["version"]): row["text"] for row in rows}
    newest = {row["id"]: row["newest"] for row in rows}
    return {each: VersionText(newest[each[0]], texts.get(each)) for each in wanted if each[0] in newest}


async def last_epochs(tx: Transaction, wanted: Sequence[tuple[UUID, int]]) -> dict[tuple[UUID, int], int | None]:
    """Return the last epoch at which each older version could be read by anybody; None where there was none."""
    if not wanted:
        return {}
    ids, versions = sorted({each for each, _ in wanted}), sorted({version for _, version in wanted})
    rows = await tx.fetch(SQL.last_epochs, tx.scope.organization_id, ids, versions)
    found = {(row["document_id"], row["version"]): row["epoch"] for row in rows}
    return {each: found.get(each) for each in wanted}


async def find_search(tx: Transaction, request_id: UUID) -> SearchSeen | None:
    """Return the last search of a request."""
    row = await tx.fetchrow(SQL.find_search, tx.scope.organization_id, request_id)
    if row is None:
        return None
    decode = msgspec.json.decode
    return SearchSeen(
        request_id=row["request_id"],
        created_at=row["created_at"],
        kind=row["kind"],
        caller_id=row["caller_id"],
        principal=row["principal"],
        epoch=row["epoch"],
        plan=row["plan"],
        profile_digest=row["profile_digest"],
        eligible_chunks=row["eligible_chunks"],
        eligible_documents=row["eligible_documents"],
        candidates=decode(row["candidates"]),
        fused=decode(row["fused"]),
        emitted=decode(row["emitted"]),
        dropped=decode(row["dropped"]),
        degraded=list(row["degraded"]),
        timing=decode(row["timing"]),
        answer_id=row["answer_id"],
    )


async def list_searches(tx: Transaction, before: datetime, limit: int) -> list[Any]:
    """Return the newest searches before a moment."""
    rows = await tx.fetch(SQL.list_searches, tx.scope.organization_id, before, limit)
    return [{**row, "emitted": len(msgspec.json.decode(row["emitted"]))} for row in rows]


async def eligible_documents(tx: Transaction, seen: SearchSeen, after: UUID, limit: int) -> list[UUID]:
    """Return documents that a recorded search could see, in the order of their ids."""
    rows = await tx.fetch(
        SQL.eligible_documents, tx.scope.organization_id, seen.request_id, seen.created_at, after, limit
    )
    return [row["document_id"] for row in rows]
