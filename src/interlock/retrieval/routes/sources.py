"""HTTP of sources: made, listed, changed, listed anew, mapped, their folders, removed.

Every write carries the consistency token of what it changed.
"""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from interlock.contracts.documents import AccessList
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import InvalidAclError, acl_json, parse_acl
from interlock.retrieval.domain.types import LISTING_KINDS, SourceMode
from interlock.retrieval.service.sources import SourceService, SourceTold, SourceWanted
from interlock.retrieval.service.tokens import TOKEN_HEADER, TokenIssuer
from interlock.retrieval.store.ingest.probes import ProbeTold
from interlock.retrieval.store.ingest.rows import current_epoch
from interlock.retrieval.store.ingest.work import SyncRun

_PATH: Final = "/v1/retrieval/sources"
ADMIN: Final = "retrieval:admin"
_SYNC_POLL_S: Final = 0.1
_FIRST: Final = UUID(int=0)
_US: Final = 1_000_000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"\S")]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=31_536_000)]
Acl = dict[str, Any] | None


class SourceBody(msgspec.Struct, forbid_unknown_fields=True):
    """A source to be made."""

    name: Name
    kind: str
    config: dict[str, Any] = {}
    default_acl: Acl = None
    sync_every_s: Seconds = 300
    acl_max_age_s: Seconds = 3_600
    mode: Literal["enforce", "observe"] = "enforce"
    observe_principals: list[str] = []


class SourceChange(msgspec.Struct, forbid_unknown_fields=True):
    """What changes; a field that is absent stays."""

    state: Literal["paused", "idle", "dark"] | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET
    default_acl: Acl | UnsetType = UNSET
    sync_every_s: Seconds | UnsetType = UNSET
    acl_max_age_s: Seconds | UnsetType = UNSET
    mode: Literal["enforce", "observe"] | UnsetType = UNSET
    observe_principals: list[str] | UnsetType = UNSET


class SyncBody(msgspec.Struct, forbid_unknown_fields=True):
    """A listing to be made; `full` takes what is missing as deleted, however much it is."""

    full: bool = False
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 0.0


class IdentityPair(msgspec.Struct, forbid_unknown_fields=True):
    """A name of the source, and who that is here."""

    external: Annotated[str, msgspec.Meta(min_length=3, max_length=250)]
    principal: Annotated[str, msgspec.Meta(min_length=3, max_length=320)]


class IdentitiesBody(msgspec.Struct, forbid_unknown_fields=True):
    """Names of a source to be mapped."""

    identities: Annotated[list[IdentityPair], msgspec.Meta(max_length=1_000)]


class ContainerBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a folder says: its own list, and whether its parent's counts as well."""

    acl: Acl = None
    inherit: bool = True


class MoveBody(msgspec.Struct, forbid_unknown_fields=True, rename={"old": "from", "new": "to"}):
    """A folder and where it goes."""

    old: str
    new: str


class SyncView(msgspec.Struct):
    """A listing and what it did."""

    sync_id: str
    state: str
    added: int
    changed: int
    acl_changed: int
    deleted: int
    quarantined: int
    skipped: int
    errors: list[dict[str, str]]
    started_at: str | None
    finished_at: str | None


class RevokeProbeView(msgspec.Struct):
    """How soon revokes took effect lately; null before the first probe."""

    p50_ms: float | None
    p99_ms: float | None
    last_at: str | None
    ok: bool | None


class SourceView(msgspec.Struct):
    """A source with what it holds and how far it is."""

    id: str
    name: str
    kind: str
    workspace_id: str | None
    config: dict[str, Any]
    state: str
    state_reason: str | None
    default_acl: dict[str, Any] | None
    mode: str
    sync_every_s: int
    acl_max_age_s: int
    documents: dict[str, int]
    backlog: dict[str, int]
    lag_s: float
    acl_confirmed_share: float
    acl_oldest_age_s: float | None
    last_sync: SyncView | None
    revoke_probe: RevokeProbeView
    created_at: str


class SourceList(msgspec.Struct):
    """A page of sources."""

    data: list[SourceView]
    next_cursor: str | None


class MappedView(msgspec.Struct):
    """How many names are somebody now, and which were refused."""

    mapped: int
    rejected: list[dict[str, str]]
    consistency_token: str


class FoldersView(msgspec.Struct):
    """What a change of folders concerned."""

    containers_changed: int
    documents_affected: int
    consistency_token: str


class RemovedView(msgspec.Struct):
    """A source that nobody sees any more; its rows go in the background."""

    id: str
    state: str
    consistency_token: str


class SourceHandlers:
    """One method a call."""

    def __init__(self, service: SourceService, issuer: TokenIssuer, clock: Clock, config: RetrievalConfig) -> None:
        self._service = service
        self._issuer = issuer
        self._clock = clock
        self._config = config

    async def create(self, call: Call) -> Reply:
        """Make a source."""
        body: SourceBody = call.body
        wanted = SourceWanted(
            name=body.name,
            kind=body.kind,
            config=body.config,
            default_acl=acl_in(body.default_acl, self._config),
            mode=SourceMode(body.mode),
            observe=body.observe_principals,
            sync_every_s=body.sync_every_s,
            acl_max_age_s=body.acl_max_age_s,
        )
        made = await self._service.create(call.tx, wanted)
        told = await self._service.figures(call.tx, made)
        return Reply(status=201, body=self._view(told), headers=self._token(call, await current_epoch(call.tx))[1])

    async def listed(self, call: Call) -> Reply:
        """Answer a page of sources."""
        page = call.page
        after = UUID(str(page.after[0])) if page.after else _FIRST
        rows = await self._service.listed(call.within, after, page.limit_plus_one)
        kept, last = page.cut(rows, lambda told: (told.source.id,))
        return call.listed([self._view(each) for each in kept], last)

    async def get(self, call: Call) -> Reply:
        """Answer one source."""
        return Reply(body=self._view(await self._service.get(call.within, source_id_of(call))))

    async def change(self, call: Call) -> Reply:
        """Change state or settings."""
        body: SourceChange = call.body
        given = {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not UNSET}
        if given.get("default_acl") is not None:
            given["default_acl"] = acl_in(given["default_acl"], self._config)
        told, epoch = await self._service.change(call.tx, source_id_of(call), given)
        return Reply(body=self._view(told), headers=self._token(call, epoch)[1])

    async def remove(self, call: Call) -> Reply:
        """Make a source dark for ever."""
        source_id = source_id_of(call)
        token, headers = self._token(call, await self._service.remove(call.tx, source_id))
        return Reply(status=202, body=RemovedView(format_id("src", source_id), "dark", token), headers=headers)

    async def sync(self, call: Call) -> Reply:
        """Ask for a listing, and wait for its end as long as the caller wants."""
        body: SyncBody = call.body
        source_id = source_id_of(call)
        run_id = await self._service.store.run(
            call.within, lambda tx: self._service.want_sync(tx, source_id, is_full=body.full)
        )
        deadline_s = self._clock.monotonic() + min(body.wait_s, self._config.sync_wait_s_max)
        while True:
            run = await self._service.sync_run(call.within, run_id)
            is_over = run.finished_us is not None
            if is_over or self._clock.monotonic() >= deadline_s:
                return Reply(status=200 if is_over else 202, body=sync_view(run))
            await self._clock.sleep(_SYNC_POLL_S)

    async def identities(self, call: Call) -> Reply:
        """Map names of the source."""
        body: IdentitiesBody = call.body
        pairs = [(each.external, each.principal) for each in body.identities]
        done = await self._service.map_identities(call.tx, source_id_of(call), pairs)
        token, headers = self._token(call, done.epoch)
        rejected = [{"external": external, "code": code} for external, code in done.rejected]
        return Reply(body=MappedView(done.mapped, rejected, token), headers=headers)

    async def container(self, call: Call) -> Reply:
        """Let a folder say who may read."""
        body: ContainerBody = call.body
        acl = acl_in(body.acl, self._config)
        done, epoch = await self._service.put_container(
            call.tx, source_id_of(call), f"/{call.params['path']}", acl, inherit=body.inherit
        )
        return self._folders(call, (done.containers, done.documents), epoch)

    async def move(self, call: Call) -> Reply:
        """Move a folder."""
        body: MoveBody = call.body
        done, epoch = await self._service.move_container(call.tx, source_id_of(call), body.old, body.new)
        return self._folders(call, (done.containers, done.documents), epoch)

    def _folders(self, call: Call, changed: tuple[int, int], epoch: int) -> Reply:
        token, headers = self._token(call, epoch)
        return Reply(body=FoldersView(*changed, token), headers=headers)

    def _token(self, call: Call, epoch: int) -> tuple[str, dict[str, str]]:
        token = self._issuer.issue(call.within.organization_id, epoch)
        return token, {TOKEN_HEADER: token}

    def _view(self, told: SourceTold) -> SourceView:
        source, backlog = told.source, told.backlog
        now_us = self._clock.now_us()
        age_s = None
        if source.acl_confirmed_us is not None:
            age_s = max(0.0, (now_us - source.acl_confirmed_us) / _US)
        is_listed = source.kind in LISTING_KINDS
        lag_s = told.pressure.lag_s
        if is_listed and told.last_sync is not None and told.last_sync.state == "done":
            lag_s = max(lag_s, (now_us - (told.last_sync.started_us or now_us)) / _US)
        is_confirmed = not is_listed or (age_s is not None and age_s <= source.acl_max_age_s)
        return SourceView(
            id=format_id("src", source.id),
            name=source.name,
            kind=source.kind,
            workspace_id=format_id("ws", source.workspace_id) if source.workspace_id.int else None,
            config=dict(source.config),
            state=source.state,
            state_reason=source.state_reason,
            default_acl=None if source.default_acl is None else acl_json(source.default_acl),
            mode=source.mode,
            sync_every_s=source.sync_every_s,
            acl_max_age_s=source.acl_max_age_s,
            documents=dict(told.documents),
            backlog={
                "documents": backlog.source_documents,
                "bytes": backlog.source_bytes,
                "vectors_pending": backlog.vectors_pending,
            },
            lag_s=round(lag_s, 3),
            acl_confirmed_share=1.0 if is_confirmed else 0.0,
            acl_oldest_age_s=round(age_s, 3) if is_listed and age_s is not None else None,
            last_sync=None if told.last_sync is None else sync_view(told.last_sync),
            revoke_probe=probe_view(told.probe),
            created_at=rfc3339(source.created_us),
        )


def source_routes(service: SourceService, issuer: TokenIssuer, clock: Clock, config: RetrievalConfig) -> list[Route]:
    """Return the routes of sources."""
    made = SourceHandlers(service, issuer, clock, config)
    one, workspace = f"{_PATH}/{{id}}", Level.WORKSPACE
    acl_codes = ("acl_principal_unknown", "invalid_acl")
    return [
        Route(
            "POST", _PATH, workspace, made.create, "Make a source.", action=ADMIN, body=SourceBody, answer=SourceView,
            status=201, is_mutation=True, codes=("source_exists", "path_not_allowed", *acl_codes),
        ),
        Route("GET", _PATH, workspace, made.listed, "Sources.", action=ADMIN, answer=SourceList,
              query=("limit", "cursor")),
        Route("GET", one, workspace, made.get, "One source.", action=ADMIN, answer=SourceView,
              codes=("source_not_found",)),
        Route(
            "PATCH", one, workspace, made.change, "Change state or settings; dark takes effect like a revoke.",
            action=ADMIN, body=SourceChange, answer=SourceView, is_mutation=True,
            codes=("source_not_found", "source_exists", "path_not_allowed", *acl_codes),
        ),
        Route(
            "DELETE", one, workspace, made.remove, "Make a source dark for ever.", action=ADMIN, answer=RemovedView,
            status=202, is_mutation=True, codes=("source_not_found",),
        ),
        Route(
            "POST", f"{one}/sync", workspace, made.sync, "Ask for a listing of a folder source.", action=ADMIN,
            body=SyncBody, answer=SyncView, is_idempotent=True, codes=("source_not_found",),
        ),
        Route(
            "PUT", f"{one}/identities", workspace, made.identities, "Say who names of a source are here.",
            action=ADMIN, body=IdentitiesBody, answer=MappedView, is_mutation=True, codes=("source_not_found",),
        ),
        Route(
            "PUT", f"{one}/containers/{{path:path}}", workspace, made.container, "Let a folder say who may read.",
            action=ADMIN, body=ContainerBody, answer=FoldersView, is_mutation=True,
            codes=("source_not_found", *acl_codes),
        ),
        Route(
            "POST", f"{one}/containers:move", workspace, made.move, "Move a folder with all that lies below.",
            action=ADMIN, body=MoveBody, answer=FoldersView, is_mutation=True, codes=("source_not_found",),
        ),
    ]  # fmt: skip


def source_id_of(call: Call) -> UUID:
    """Return the source that a path names. Raises `source_not_found`."""
    try:
        return parse_id("src", call.params["id"])
    except MalformedIdError:
        raise InterlockError("source_not_found") from None


def acl_in(value: dict[str, Any] | None, config: RetrievalConfig) -> AccessList | None:
    """Return the list of a body. Raises `invalid_acl`."""
    if value is None:
        return None
    try:
        return parse_acl(value, config.acl_principals_max)
    except InvalidAclError as error:
        raise InterlockError("invalid_acl", f"This is not an access list: {error}.") from error


def probe_view(told: ProbeTold) -> RevokeProbeView:
    """Return what a source publishes of its probes."""
    last_at = None if told.last_us is None else rfc3339(told.last_us)
    return RevokeProbeView(told.p50_ms, told.p99_ms, last_at, told.is_ok)


def sync_view(run: SyncRun) -> SyncView:
    """Return the answer of a listing."""
    counts = run.counts
    return SyncView(
        sync_id=format_id("sync", run.id),
        state=run.state,
        added=counts.added,
        changed=counts.changed,
        acl_changed=counts.acl_changed,
        deleted=counts.deleted,
        quarantined=counts.quarantined,
        skipped=counts.skipped,
        errors=[{"external_id": name, "code": code} for name, code in counts.errors],
        started_at=None if run.started_us is None else rfc3339(run.started_us),
        finished_at=None if run.finished_us is None else rfc3339(run.finished_us),
    )
