"""The second path: may this reader read these documents, by their own words and the folders above them.

Shares no statement, no table of slots or clauses and no set arithmetic with the first path: it reads the lists as JSON
and evaluates them in Python, so that one wrong query cannot be wrong twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.access import (
    EVERYONE,
    Folder,
    Ruling,
    effective,
    external_id,
    external_name,
    parse_acl,
    principal_name,
    ruling,
)
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.store.reading.search import SQL, moment

_PRINCIPALS_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Closure:
    """Everything that a reader is: names as lists spell them, their ids, and by which name each name is held."""

    names: frozenset[str]
    ids: frozenset[UUID]
    via: Mapping[str, str]

    def path(self, name: str) -> list[str]:
        """Return the names from the reader to one that it holds."""
        path = [name]
        while path[-1] in self.via and len(path) <= len(self.via):
            path.append(self.via[path[-1]])
        return path[::-1]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the second path says of a document; `reason` is a rule of an explanation."""

    document_id: UUID
    source_id: UUID
    is_readable: bool
    reason: str
    ruling: Ruling | None = None
    container: str | None = None


async def closure_of(tx: Transaction, reader: Reader, epoch: int) -> Closure:
    """Return what a reader was at an epoch, walked step by step."""
    organization_id = tx.scope.organization_id
    spelled = {root: principal_name(reader.kind, root) for root in reader.roots}
    via: dict[str, str] = {}
    fresh = list(reader.roots)
    while fresh:
        rows = await tx.fetch(SQL.groups_of, organization_id, fresh, epoch)
        fresh = []
        for row in sorted(rows, key=lambda row: (row["group_id"], row["member_id"])):
            if row["group_id"] not in spelled:
                spelled[row["group_id"]] = principal_name("group", row["group_id"])
                via[spelled[row["group_id"]]] = spelled[row["member_id"]]
                fresh.append(row["group_id"])
    names = set(spelled.values())
    if reader.kind == "ext":
        names |= {reader.name, *await _same_names(tx, reader)}
    else:
        names.add(EVERYONE)
        for row in await tx.fetch(SQL.outside_names, organization_id, list(spelled), epoch):
            name = external_name(row["source_id"], row["external"])
            names.add(name)
            via[name] = spelled[row["principal_id"]]
    via |= {each: reader.name for each in names if each not in via and each != reader.name}
    outside = {external_id(name) for name in names if name.startswith("ext:")}
    return Closure(frozenset(names), frozenset({*spelled, *reader.extras, *outside}), via)


async def judge(tx: Transaction, closure: Closure, documents: Iterable[UUID], now_us: int) -> dict[UUID, Judged]:
    """Return what the second path says of each document that exists; an absent one is not readable."""
    wanted = list(documents)
    if not wanted:
        return {}
    rows = await tx.fetch(SQL.guarded_documents, tx.scope.organization_id, wanted, moment(now_us))
    folders = await _folders_above(tx, rows)
    return {row["id"]: _judged(row, closure, folders) for row in rows}


def _judged(row: Any, closure: Closure, folders: Mapping[int, Any]) -> Judged:
    where = (row["id"], row["source_id"])
    if row["removed_us"] is not None or row["source_state"] == "dark":
        return Judged(*where, False, "dark")
    if row["state"] != "live":
        return Judged(*where, False, "deleted" if row["state"] in {"deleted", "purged"} else "no_acl")
    if not row["is_confirmed"]:
        return Judged(*where, False, "expired")
    if row["mode"] == "observe" and not closure.ids.intersection(row["observe_principals"]):
        return Judged(*where, False, "dark")
    own = acl_from(row["own_acl"])
    chain = chain_of(row["container_id"], folders) if own is None or own.inherit else []
    found = ruling(effective(own, [folder for _, folder in chain]), closure.names)
    return Judged(*where, found.is_allowed, str(found.rule), found, giver_of(own, chain, found))


def giver_of(own: AccessList | None, chain: list[tuple[str, Folder]], found: Ruling) -> str | None:
    """Return the folder whose list decided; None where the document's own did, or nothing."""
    clause = found.clause
    if not clause or (own is not None and (clause in _spelled(own) or clause[0] in own.deny)):
        return None
    for path, folder in chain:
        if folder.own is not None and (clause in _spelled(folder.own) or clause[0] in folder.own.deny):
            return path
    return None


def chain_of(container_id: int | None, folders: Mapping[int, Any]) -> list[tuple[str, Folder]]:
    """Return the folders above, nearest first, each with its path."""
    chain: list[tuple[str, Folder]] = []
    seen: set[int] = set()
    while container_id is not None and container_id not in seen:
        seen.add(container_id)
        row = folders.get(container_id)
        if row is None:
            chain.append(("?", Folder(None, inherit=False, is_unreadable=True)))
            break
        own = acl_from(row["own"])
        chain.append((row["path"], Folder(own, row["inherit"], is_unreadable=row["problem"] is not None)))
        container_id = row["parent_id"]
    return chain


def acl_from(text: str | None) -> AccessList | None:
    """Return a list of the store."""
    return None if text is None else parse_acl(msgspec.json.decode(text), _PRINCIPALS_MAX)


async def _folders_above(tx: Transaction, rows: list[Any]) -> dict[int, Any]:
    folders: dict[int, Any] = {}
    sources = sorted({row["source_id"] for row in rows})
    fresh = {row["container_id"] for row in rows if row["container_id"] is not None}
    while fresh:
        found = await tx.fetch(SQL.guarded_folders, tx.scope.organization_id, sources, sorted(fresh))
        folders |= {row["id"]: row for row in found}
        fresh = {row["parent_id"] for row in found if row["parent_id"] is not None} - set(folders)
    return folders


async def _same_names(tx: Transaction, reader: Reader) -> set[str]:
    rows = await tx.fetch(SQL.same_names, tx.scope.organization_id, list(reader.extras))
    return {external_name(row["source_id"], row["external"]) for row in rows}


def _spelled(acl: AccessList) -> set[tuple[str, ...]]:
    return {tuple(sorted(set(clause))) for clause in acl.allow}
