"""Access lists in the store: sets and slots interned, folders, what counts for a slot, and the changes of folders.

Decides no access: it writes down what `domain.access.effective` says. Locks are always taken in one order: the folders
of the source, sets by digest, folders by path, slots, and the epoch last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.access import (
    NOBODY,
    Folder,
    acl_json,
    canonical,
    effective,
    principal_id,
    set_digest,
)
from interlock.retrieval.domain.paths import ancestors, parent_of
from interlock.retrieval.store.ingest.rows import SQL, Changes, acl_of, to_text

_NO: Final = 0


@dataclass(frozen=True, slots=True)
class SlotWanted:
    """What a document says: its own list, and the folder through which it inherits; None for neither."""

    container: str | None
    own: AccessList | None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where documents that say the same point; `container_id` is the folder that the slot inherits through."""

    acl_id: int
    container_id: int | None


@dataclass(frozen=True, slots=True)
class Interned:
    """Slots by what was wanted, and the folders that were named."""

    slots: dict[SlotWanted, Slot]
    containers: dict[str, int]


@dataclass(frozen=True, slots=True)
class FolderRow:
    """A folder as its row says."""

    id: int
    parent_id: int | None
    path: str
    own_set_id: int | None
    inherit: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class FolderWanted:
    """What a folder shall say; `problem` is the code of a list that could not be read."""

    own: AccessList | None
    inherit: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FoldersChanged:
    """What a change of folders concerned."""

    containers: int
    documents: int


async def intern_sets(tx: Transaction, lists: Iterable[AccessList]) -> dict[bytes, int]:
    """Return the set of each list by digest, made where nobody had it yet."""
    wanted = {set_digest(each): canonical(each) for each in lists}
    organization_id, digests = tx.scope.organization_id, sorted(wanted)
    found = {row["digest"]: row["set_id"] for row in await tx.fetch(SQL.find_sets, organization_id, digests)}
    missing = [each for each in digests if each not in found]
    if not missing:
        return found
    texts = [to_text(acl_json(replace(wanted[each], inherit=False))) for each in missing]
    made = {row["digest"]: row["set_id"] for row in await tx.fetch(SQL.add_sets, organization_id, missing, texts)}
    await _add_clauses(tx, [(set_id, wanted[digest]) for digest, set_id in made.items()])
    found |= made
    late = [each for each in missing if each not in found]
    if late:
        # Somebody else made them while we waited; they are committed now.
        found |= {row["digest"]: row["set_id"] for row in await tx.fetch(SQL.find_sets, organization_id, late)}
    return found


async def _add_clauses(tx: Transaction, made: Sequence[tuple[int, AccessList]]) -> None:
    rows = [
        (set_id, number, "allow", principal_id(name))
        for set_id, acl in made
        for number, clause in enumerate(acl.allow)
        for name in clause
    ]
    rows += [
        (set_id, number, "deny", principal_id(name)) for set_id, acl in made for number, name in enumerate(acl.deny)
    ]
    if rows:
        await tx.execute(SQL.add_clauses, tx.scope.organization_id, *map(list, zip(*rows, strict=True)))


async def hold_folders(tx: Transaction, source_id: UUID) -> None:
    """Let no folder of a source change or move until the transaction ends."""
    await tx.fetchval(SQL.hold_folders_still, source_id)


async def intern_slots(
    tx: Transaction, source_id: UUID, wanted: Iterable[SlotWanted], changes: Changes, also: Iterable[str] = ()
) -> Interned:
    """Return the slot of each wish, and the folders of `also`; what is new is bound by the stamp of `changes`."""
    wishes = list(dict.fromkeys(wanted))
    named = {*also, *(each.container for each in wishes if each.container)}
    paths = {path for each in named for path in ancestors(each)}
    folders: dict[str, FolderRow] = {}
    if paths:
        await hold_folders(tx, source_id)
        folders = {row.path: row for row in await _containers_at(tx, source_id, paths)}
    said = await _sets_of(tx, folders.values())
    # Everything that will count is known before anything is written: sets come before folders and slots.
    own_of = {each: None if each.own is None else set_digest(each.own) for each in wishes}
    counts = {each: effective(each.own, _chain(each.container, folders, said)) for each in wishes}
    made_paths = sorted(path for path in paths if path not in folders)
    of_path = {path: effective(None, _chain(path, folders, said)) for path in made_paths}
    lists = [*counts.values(), *of_path.values(), *(each.own for each in wishes if each.own is not None)]
    sets = await intern_sets(tx, lists)
    changes.source_id = source_id
    ids = {path: row.id for path, row in folders.items()}
    for path in made_paths:
        ids[path] = await _add_container(tx, source_id, path, ids, changes)
    keys: dict[tuple[int, int], AccessList] = {(ids[path], _NO): acl for path, acl in of_path.items()}
    key_of: dict[SlotWanted, tuple[int, int]] = {}
    for each in wishes:
        digest = own_of[each]
        key = (ids[each.container] if each.container else _NO, _NO if digest is None else sets[digest])
        key_of[each] = key
        keys[key] = counts[each]
    slots = await _slots(tx, source_id, keys, sets, changes)
    for path in made_paths:
        await tx.execute(SQL.point_container, tx.scope.organization_id, source_id, ids[path], slots[ids[path], _NO])
    return Interned({each: Slot(slots[key], key[0] or None) for each, key in key_of.items()}, ids)


async def _slots(
    tx: Transaction,
    source_id: UUID,
    wanted: Mapping[tuple[int, int], AccessList],
    sets: Mapping[bytes, int],
    changes: Changes,
) -> dict[tuple[int, int], int]:
    keys = sorted(wanted)
    found = await _found_slots(tx, source_id, keys)
    missing = [key for key in keys if key not in found]
    if not missing:
        return found
    rows = await tx.fetch(
        SQL.add_slots,
        tx.scope.organization_id,
        source_id,
        [container for container, _ in missing],
        [own for _, own in missing],
    )
    made = {_key(row): row["acl_id"] for row in rows}
    if made:
        await tx.execute(SQL.add_counts, tx.scope.organization_id, sorted(made.values()))
    changes.bindings |= {acl_id: sets[set_digest(wanted[key])] for key, acl_id in made.items()}
    found |= made
    late = [key for key in missing if key not in found]
    return found | (await _found_slots(tx, source_id, late) if late else {})


async def _found_slots(tx: Transaction, source_id: UUID, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    containers, own = [key[0] for key in keys], [key[1] for key in keys]
    rows = await tx.fetch(SQL.find_slots, tx.scope.organization_id, source_id, containers, own)
    return {_key(row): row["acl_id"] for row in rows}


def _key(row: Any) -> tuple[int, int]:
    return (row["container_id"] or _NO, row["own_set_id"] or _NO)


async def _add_container(tx: Transaction, source_id: UUID, path: str, ids: Mapping[str, int], changes: Changes) -> int:
    organization_id, above = tx.scope.organization_id, parent_of(path)
    parent_id = None if above is None else ids[above]
    made: int | None = await tx.fetchval(SQL.add_container, organization_id, source_id, parent_id, path)
    if made is None:
        return (await _containers_at(tx, source_id, [path]))[0].id
    changes.containers.add(made)
    return made


async def put_container(
    tx: Transaction, source_id: UUID, path: str, wanted: FolderWanted, changes: Changes
) -> FoldersChanged:
    """Let a folder say something else; every slot below is bound anew, and no passage is written."""
    return await put_containers(tx, source_id, {path: wanted}, changes)


async def put_containers(
    tx: Transaction, source_id: UUID, wanted: Mapping[str, FolderWanted], changes: Changes
) -> FoldersChanged:
    """Let folders say something else, all at one moment; what they say already is no change."""
    await tx.fetchval(SQL.hold_folders_alone, source_id)
    paths = {path for each in wanted for path in ancestors(each)}
    folders = {row.path: row for row in await _containers_at(tx, source_id, paths)}
    below: dict[str, FolderRow] = {}
    for path in _tops(wanted):
        below |= {row.path: row for row in await _under(tx, source_id, path)}
    known = folders | below
    said = await _sets_of(tx, known.values())
    after = {path: _folder(row, said) for path, row in known.items()}
    own = {path: each.own for path, each in wanted.items()}
    changed = [path for path, each in wanted.items() if after.get(path) != _as_folder(each)]
    if not changed:
        return FoldersChanged(0, 0)
    after |= {path: _as_folder(each) for path, each in wanted.items()}
    lists = await _lists_below(tx, source_id, known, after)
    fresh = sorted(path for path in paths if path not in known)
    lists_of_fresh = {path: effective(None, _walk(path, after)) for path in fresh}
    sets = await intern_sets(
        tx, [*(acl for acl in own.values() if acl), *(acl for _, acl in lists), *lists_of_fresh.values()]
    )
    changes.source_id = source_id
    ids = {path: row.id for path, row in known.items()}
    for path in fresh:
        ids[path] = await _add_container(tx, source_id, path, ids, changes)
    slots = await _slots(tx, source_id, {(ids[path], _NO): acl for path, acl in lists_of_fresh.items()}, sets, changes)
    for path in fresh:
        await tx.execute(SQL.point_container, tx.scope.organization_id, source_id, ids[path], slots[ids[path], _NO])
    for path in sorted(changed):
        acl, each = own[path], wanted[path]
        set_id = None if acl is None else sets[set_digest(acl)]
        values = (ids[path], set_id, each.inherit, each.problem)
        await tx.execute(SQL.change_container, tx.scope.organization_id, source_id, *values)
        changes.containers.add(ids[path])
    await _bind(tx, lists, sets, changes)
    touched = [row.id for row in below.values()]
    documents = int(await tx.fetchval(SQL.documents_in, tx.scope.organization_id, source_id, touched))
    return FoldersChanged(len(changed), documents)


async def move_containers(
    tx: Transaction, source_id: UUID, old: str, new: str, changes: Changes
) -> FoldersChanged | None:
    """Move a folder with all that is below it; None where there is no such folder or the new place is taken."""
    await tx.fetchval(SQL.hold_folders_alone, source_id)
    below = {row.path: row for row in await _under(tx, source_id, old)}
    if old not in below or await _under(tx, source_id, new):
        return None
    above = [path for path in ancestors(new) if path != new]
    folders = {row.path: row for row in await _containers_at(tx, source_id, above)}
    said = await _sets_of(tx, [*below.values(), *folders.values()])
    after = {path: _folder(row, said) for path, row in folders.items()}
    moved = {new + path[len(old) :]: row for path, row in below.items()}
    after |= {path: _folder(row, said) for path, row in moved.items()}
    lists = await _lists_below(tx, source_id, moved, after)
    fresh = sorted(path for path in above if path not in folders)
    lists_of_fresh = {path: effective(None, _walk(path, after)) for path in fresh}
    sets = await intern_sets(tx, [*(acl for _, acl in lists), *lists_of_fresh.values()])
    changes.source_id = source_id
    ids = {path: row.id for path, row in folders.items()}
    for path in fresh:
        ids[path] = await _add_container(tx, source_id, path, ids, changes)
    slots = await _slots(tx, source_id, {(ids[path], _NO): acl for path, acl in lists_of_fresh.items()}, sets, changes)
    for path in fresh:
        await tx.execute(SQL.point_container, tx.scope.organization_id, source_id, ids[path], slots[ids[path], _NO])
    parent = parent_of(new)
    parent_id = None if parent is None else ids[parent]
    await tx.execute(SQL.move_containers, tx.scope.organization_id, source_id, old, new, parent_id)
    changes.containers |= {row.id for row in below.values()}
    await _bind(tx, lists, sets, changes)
    touched = [row.id for row in below.values()]
    documents = int(await tx.fetchval(SQL.documents_in, tx.scope.organization_id, source_id, touched))
    return FoldersChanged(len(below), documents)


async def _lists_below(
    tx: Transaction, source_id: UUID, folders: Mapping[str, FolderRow], after: Mapping[str, Folder]
) -> list[tuple[int, AccessList]]:
    """Return what will count for every slot of these folders, by slot."""
    paths = {row.id: path for path, row in folders.items()}
    rows = await tx.fetch(SQL.slots_of_containers, tx.scope.organization_id, source_id, sorted(paths))
    own = await _by_id(tx, {row["own_set_id"] for row in rows if row["own_set_id"]})
    return [
        (row["acl_id"], effective(own.get(row["own_set_id"] or _NO), _walk(paths[row["container_id"]], after)))
        for row in rows
    ]


async def _bind(
    tx: Transaction, lists: Sequence[tuple[int, AccessList]], sets: Mapping[bytes, int], changes: Changes
) -> None:
    rows = await tx.fetch(SQL.bound_sets, tx.scope.organization_id, [acl_id for acl_id, _ in lists])
    bound = {row["acl_id"]: row["set_id"] for row in rows}
    for acl_id, acl in lists:
        set_id = sets[set_digest(acl)]
        if bound.get(acl_id) != set_id:
            changes.bindings[acl_id] = set_id


async def _containers_at(tx: Transaction, source_id: UUID, paths: Iterable[str]) -> list[FolderRow]:
    rows = await tx.fetch(SQL.containers_at, tx.scope.organization_id, source_id, sorted(paths))
    return [FolderRow(**row) for row in rows]


async def _under(tx: Transaction, source_id: UUID, path: str) -> list[FolderRow]:
    prefix = path if path == "/" else f"{path}/"
    rows = await tx.fetch(SQL.containers_under, tx.scope.organization_id, source_id, path, prefix)
    return [FolderRow(**row) for row in rows]


async def _sets_of(tx: Transaction, rows: Iterable[FolderRow]) -> dict[int, AccessList]:
    return await _by_id(tx, {row.own_set_id for row in rows if row.own_set_id})


async def _by_id(tx: Transaction, set_ids: Iterable[int]) -> dict[int, AccessList]:
    wanted = sorted(set_ids)
    if not wanted:
        return {}
    rows = await tx.fetch(SQL.sets_by_id, tx.scope.organization_id, wanted)
    return {row["set_id"]: acl_of(row["canonical"]) or NOBODY for row in rows}


def _folder(row: FolderRow, said: Mapping[int, AccessList]) -> Folder:
    own = None if row.own_set_id is None else said[row.own_set_id]
    return Folder(own, row.inherit, row.problem is not None)


def _as_folder(wanted: FolderWanted) -> Folder:
    own = None if wanted.own is None else replace(canonical(wanted.own), inherit=False)
    return Folder(own, wanted.inherit, wanted.problem is not None)


def _chain(path: str | None, rows: Mapping[str, FolderRow], said: Mapping[int, AccessList]) -> list[Folder]:
    """Return the folders from `path` upwards; one that is not there yet says nothing."""
    if path is None:
        return []
    return [_folder(rows[each], said) if each in rows else Folder(None) for each in reversed(ancestors(path))]


def _walk(path: str, folders: Mapping[str, Folder]) -> list[Folder]:
    return [folders.get(each, Folder(None)) for each in reversed(ancestors(path))]


def _tops(paths: Iterable[str]) -> list[str]:
    """Return those paths that lie below none of the others."""
    wanted = set(paths)
    return sorted(path for path in wanted if not any(each in wanted for each in ancestors(path)[:-1]))
