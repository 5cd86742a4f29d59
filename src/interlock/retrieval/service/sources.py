"""Use cases of sources: made, changed, darkened, removed, mapped to people, their folders changed and moved.

A source belongs to a workspace; whoever acts elsewhere does not see that it exists. Reading is bounded by lists alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from interlock.contracts.documents import AccessList, Pressure
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Store, Transaction, UniqueViolation
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import (
    InvalidAclError,
    external_id,
    external_name,
    is_of_probe,
    names_of,
    principal_id,
)
from interlock.retrieval.domain.paths import ROOT, InvalidPathError, normal
from interlock.retrieval.domain.types import (
    LISTING_KINDS,
    WHOLE_ORGANIZATION,
    Backlog,
    Source,
    SourceKind,
    SourceMode,
    SourceState,
)
from interlock.retrieval.service.backlog import Room
from interlock.retrieval.service.names import UnknownPrincipal, known_names, resolved
from interlock.retrieval.store.ingest import access, probes, work
from interlock.retrieval.store.ingest import sources as rows
from interlock.retrieval.store.ingest.access import FoldersChanged, FolderWanted
from interlock.retrieval.store.ingest.probes import ProbeTold
from interlock.retrieval.store.ingest.rows import Changes, current_epoch, stamp
from interlock.retrieval.store.ingest.work import SyncRun

_FOLDER_FIELDS: Final = frozenset({"path", "include", "owners_files"})
_CRAWL_FIELDS: Final = frozenset({"crawl"})
_INCLUDE: Final = ["**/*.md"]
_PATTERNS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class SourceWanted:
    """A source to be made."""

    name: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    default_acl: AccessList | None = None
    mode: SourceMode = SourceMode.ENFORCE
    observe: Sequence[str] = ()
    sync_every_s: int = 300
    acl_max_age_s: int = 3_600


@dataclass(frozen=True, slots=True)
class SourceTold:
    """A source with what it holds and how far it is."""

    source: Source
    documents: Mapping[str, int]
    backlog: Backlog
    pressure: Pressure
    last_sync: SyncRun | None
    probe: ProbeTold


@dataclass(frozen=True, slots=True)
class Mapped:
    """How many outside names are somebody now, and which were refused and why."""

    mapped: int
    rejected: tuple[tuple[str, str], ...]
    epoch: int


async def source_in(tx: Transaction, source_id: UUID) -> Source:
    """Return a source that the scope may administer. Raises `source_not_found`."""
    source = await rows.get_source(tx, source_id)
    if source is None or not may_administer(tx.scope, source):
        raise InterlockError("source_not_found")
    return source


def may_administer(scope: Scope, source: Source) -> bool:
    """Tell whether the scope holds the workspace that a source belongs to."""
    return isinstance(scope.workspace_id, AllWorkspaces) or scope.workspace_id == source.workspace_id


class SourceService:
    """Sources of one process. `roots` are the folders under which folder sources may lie."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that a change needs
        self,
        *,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        room: Room,
        roots: Sequence[Path],
        config: RetrievalConfig,
    ) -> None:
        self.store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._room = room
        self._roots = tuple(roots)
        self._config = config

    async def create(self, tx: Transaction, wanted: SourceWanted) -> Source:
        """Make a source. Raises `source_exists`, `path_not_allowed`, `acl_principal_unknown`, `invalid_request`."""
        try:
            kind = SourceKind(wanted.kind)
        except ValueError:
            kinds = ", ".join(SourceKind)
            raise InterlockError(
                "invalid_request", f"The kinds of sources are {kinds}.", detail={"field": "kind"}
            ) from None
        if await rows.count_sources(tx) >= self._config.sources_max:
            raise InterlockError("invalid_request", detail={"sources_max": self._config.sources_max})
        scope = tx.scope
        source = Source(
            id=self._ids.new(),
            workspace_id=_home(scope),
            name=wanted.name,
            kind=kind,
            config=self._config_of(kind, wanted.config),
            state=SourceState.IDLE,
            state_reason=None,
            default_acl=await self._acl(tx, wanted.default_acl),
            strict=False,
            mode=wanted.mode,
            observe_principals=await self._observers(tx, wanted.observe),
            sync_every_s=wanted.sync_every_s,
            acl_max_age_s=wanted.acl_max_age_s,
            acl_confirmed_us=None,
            retention_days=None,
            created_us=self._clock.now_us(),
        )
        try:
            async with tx.savepoint():
                await rows.add_source(tx, source)
        except UniqueViolation:
            raise InterlockError("source_exists", detail={"name": wanted.name}) from None
        await self._told(tx, "source.create", source.id, {"name": source.name, "kind": str(kind)})
        return source

    async def get(self, scope: Scope, source_id: UUID) -> SourceTold:
        """Return a source with its figures. Raises `source_not_found`."""
        async with self.store.transaction(scope) as tx:
            return await self.figures(tx, await source_in(tx, source_id))

    async def listed(self, scope: Scope, after: UUID, limit: int) -> list[SourceTold]:
        """Return sources that the scope may administer, by id."""
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        async with self.store.transaction(scope) as tx:
            found = await rows.list_sources(tx, after, limit, where)
            return [await self.figures(tx, each) for each in found]

    async def figures(self, tx: Transaction, source: Source) -> SourceTold:
        """Return a source with what it holds and how far it is."""
        return SourceTold(
            source,
            await rows.document_counts(tx, source.id),
            await rows.backlog(tx, source.id),
            await self._room.pressure(tx, source.id),
            await work.last_sync_run(tx, source.id),
            await probes.get_probe(tx, source.id),
        )

    async def change(self, tx: Transaction, source_id: UUID, given: dict[str, Any]) -> tuple[SourceTold, int]:
        """Change state or settings; return the source and the epoch. `dark` and back take effect like a revoke.

        Raises `source_not_found`, `invalid_request`, `acl_principal_unknown`, `path_not_allowed`, `source_exists`.
        """
        source = await source_in(tx, source_id)
        state = given.pop("state", None)
        if "config" in given:
            given["config"] = self._config_of(source.kind, given["config"])
        if given.get("default_acl") is not None:
            given["default_acl"] = await self._acl(tx, given["default_acl"])
        if "observe_principals" in given:
            given["observe_principals"] = list(await self._observers(tx, given["observe_principals"]))
        try:
            async with tx.savepoint():
                await rows.change_source(tx, source_id, given)
        except UniqueViolation:
            raise InterlockError("source_exists", detail={"name": given.get("name")}) from None
        if state is not None:
            await rows.set_state(tx, source_id, SourceState(state), "by a person", is_by_person=True)
        detail = {"fields": sorted(given), "state": state or ""}
        await self._told(tx, "source.change", source_id, detail)
        epoch = await stamp(tx, Changes(source_id, sources={source_id}), self._clock.now_us())
        return await self.figures(tx, await source_in(tx, source_id)), epoch

    async def remove(self, tx: Transaction, source_id: UUID) -> int:
        """Make a source dark for ever; its documents are withdrawn in the background. Returns the epoch."""
        source = await source_in(tx, source_id)
        await rows.remove_source(tx, source_id, self._ids.new(), self._clock.now_us())
        await self._told(tx, "source.remove", source_id, {"name": source.name})
        return await stamp(tx, Changes(source_id, sources={source_id}), self._clock.now_us())

    async def map_identities(self, tx: Transaction, source_id: UUID, pairs: Sequence[tuple[str, str]]) -> Mapped:
        """Say who outside names are here: each one existing user or group. Raises `source_not_found`."""
        await source_in(tx, source_id)
        known = await known_names(tx, [name for _, name in pairs if name.partition(":")[0] in {"user", "group"}])
        good, rejected = [], []
        for external, named in pairs:
            try:
                name = external_name(source_id, external)
            except InvalidAclError:
                name = ""
            if not name or is_of_probe(name):
                rejected.append((external, "invalid_acl"))
                continue
            found = known.get(named)
            if found is None:
                rejected.append((external, "principal_not_found"))
                continue
            good.append((external, external_id(name), principal_id(found), found.partition(":")[0]))
        if not good:
            return Mapped(0, tuple(rejected), await current_epoch(tx))
        await rows.put_aliases(tx, source_id, good, tx.scope.principal.id, self._clock.now_us())
        await self._told(tx, "source.identities", source_id, {"mapped": len(good)})
        epoch = await stamp(tx, Changes(source_id, sources={source_id}), self._clock.now_us())
        return Mapped(len(good), tuple(rejected), epoch)

    async def put_container(
        self, tx: Transaction, source_id: UUID, path: str, acl: AccessList | None, *, inherit: bool
    ) -> tuple[FoldersChanged, int]:
        """Let a folder say who may read. Raises `source_not_found`, `invalid_request`, `acl_principal_unknown`."""
        await source_in(tx, source_id)
        place = self._path(path)
        changes = Changes(source_id, cause="folder")
        wanted = FolderWanted(await self._acl(tx, acl), inherit)
        done = await access.put_container(tx, source_id, place, wanted, changes)
        if not changes:
            return done, await current_epoch(tx)
        await self._told(tx, "container.acl", source_id, {"path": place, "documents": done.documents})
        return done, await stamp(tx, changes, self._clock.now_us())

    async def move_container(self, tx: Transaction, source_id: UUID, old: str, new: str) -> tuple[FoldersChanged, int]:
        """Move a folder with all that lies below. Raises `source_not_found`, `invalid_request`."""
        await source_in(tx, source_id)
        before, after = self._path(old), self._path(new)
        if ROOT in {before, after} or f"{after}/".startswith(f"{before}/"):
            raise InterlockError("invalid_request", "A folder moves to a place outside of itself.")
        changes = Changes(source_id, cause="move")
        done = await access.move_containers(tx, source_id, before, after, changes)
        if done is None:
            raise InterlockError("invalid_request", "There is no such folder, or its new place is taken.")
        detail = {"from": before, "to": after, "documents": done.documents}
        await self._told(tx, "container.move", source_id, detail)
        return done, await stamp(tx, changes, self._clock.now_us())

    async def want_sync(self, tx: Transaction, source_id: UUID, *, is_full: bool) -> UUID:
        """Ask for a listing, or join the one under way; return its id. Raises `source_not_found`, `invalid_request`."""
        source = await source_in(tx, source_id)
        if source.kind not in LISTING_KINDS:
            raise InterlockError("invalid_request", f"A source of kind {source.kind} is not listed; it is sent.")
        if source.state in {SourceState.DARK, SourceState.PAUSED}:
            raise InterlockError("invalid_request", f"The source is {source.state}.", detail={"state": source.state})
        run_id = await work.add_sync_run(tx, source_id, self._ids.new(), self._clock.now_us(), is_full=is_full)
        await self._told(tx, "source.sync", source_id, {"sync": format_id("sync", run_id)})
        return run_id

    async def sync_run(self, scope: Scope, run_id: UUID) -> SyncRun:
        """Return a listing. Raises `not_found`."""
        async with self.store.transaction(scope) as tx:
            run = await work.get_sync_run(tx, run_id)
        if run is None:
            raise InterlockError("not_found")
        return run

    async def _acl(self, tx: Transaction, acl: AccessList | None) -> AccessList | None:
        if acl is None:
            return None
        known = resolved(acl, await known_names(tx, names_of(acl)))
        if isinstance(known, UnknownPrincipal):
            raise InterlockError("acl_principal_unknown", detail={"principal": known.name})
        return known

    async def _observers(self, tx: Transaction, names: Sequence[str]) -> tuple[UUID, ...]:
        known = await self._acl(tx, AccessList(tuple((name,) for name in names)))
        return () if known is None else tuple(principal_id(name) for (name,) in known.allow)

    def _config_of(self, kind: SourceKind, given: Mapping[str, Any]) -> dict[str, Any]:
        allowed = {SourceKind.FOLDER: _FOLDER_FIELDS, SourceKind.CRAWL: _CRAWL_FIELDS}.get(kind, frozenset())
        unknown = sorted(set(given) - allowed)
        if unknown:
            raise _bad_config(f"A source of kind {kind} has no setting {unknown[0][:40]!r}.")
        if kind is not SourceKind.FOLDER:
            return dict(given)
        path, include = given.get("path"), given.get("include", _INCLUDE)
        owners = given.get("owners_files", True)
        if not isinstance(path, str) or not path or "\x00" in path or not isinstance(owners, bool):
            raise _bad_config("A folder source has a path, and owners_files is true or false.")
        if not isinstance(include, list) or not 1 <= len(include) <= _PATTERNS_MAX or not all(map(_is_name, include)):
            raise _bad_config("include is a list of patterns.")
        return {"path": str(self.allowed(path)), "include": include, "owners_files": owners}

    def allowed(self, path: str) -> Path:
        """Return the folder of a source, its links resolved. Raises `path_not_allowed`."""
        resolved_path = Path(path).resolve()
        if not any(resolved_path == root or root in resolved_path.parents for root in map(Path.resolve, self._roots)):
            raise InterlockError("path_not_allowed", detail={"allowed_roots": [str(each) for each in self._roots]})
        return resolved_path

    def _path(self, path: str) -> str:
        try:
            return normal(path, self._config.containers_depth_max)
        except InvalidPathError:
            raise InterlockError("invalid_request", "A folder is a path like /a/b.", detail={"field": "path"}) from None

    async def _told(self, tx: Transaction, action: str, source_id: UUID, detail: dict[str, Any]) -> None:
        await self._audit.append(tx, AuditEntry(action, "source", format_id("src", source_id), detail=detail))


def _home(scope: Scope) -> UUID:
    """Return the workspace that a source is made in: the scope's, else that of the key, else the organization."""
    if not isinstance(scope.workspace_id, AllWorkspaces):
        return scope.workspace_id
    return scope.principal.workspace_id or WHOLE_ORGANIZATION


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\x00" not in value


def _bad_config(message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": "config"})
