"""Sources in the store: rows to types, what they hold, how far they are, and who their outside names are here.

Decides no state; services do.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.types import Backlog, Source, SourceKind, SourceMode, SourceState, Standing
from interlock.retrieval.store.ingest.rows import SQL, acl_of, acl_text, from_text, to_text


def source_of(row: Any) -> Source:
    """Return the source of a row."""
    confirmed = row["acl_confirmed_at"]
    return Source(
        id=row["id"],
        workspace_id=row["workspace_id"],
        name=row["name"],
        kind=SourceKind(row["kind"]),
        config=from_text(row["config"]),
        state=SourceState(row["state"]),
        state_reason=row["state_reason"],
        default_acl=acl_of(row["default_acl"]),
        strict=row["strict"],
        mode=SourceMode(row["mode"]),
        observe_principals=tuple(row["observe_principals"]),
        sync_every_s=row["sync_every_s"],
        acl_max_age_s=row["acl_max_age_s"],
        acl_confirmed_us=None if confirmed is None else round(confirmed.timestamp() * 1_000_000),
        retention_days=row["retention_days"],
        created_us=row["created_us"],
    )


async def add_source(tx: Transaction, source: Source) -> None:
    """Add a source. Raises `UniqueViolation` for a name that is taken."""
    organization_id = tx.scope.organization_id
    await tx.execute(
        SQL.add_source,
        organization_id,
        source.id,
        source.workspace_id,
        source.name,
        source.kind,
        to_text(dict(source.config)),
        acl_text(source.default_acl),
        source.strict,
        source.mode,
        list(source.observe_principals),
        source.sync_every_s,
        source.acl_max_age_s,
        source.retention_days,
        source.created_us,
    )
    await tx.execute(SQL.add_share, organization_id, source.id)


async def get_source(tx: Transaction, source_id: UUID) -> Source | None:
    """Return a source that was not removed."""
    row = await tx.fetchrow(SQL.get_source, tx.scope.organization_id, source_id)
    return None if row is None else source_of(row)


async def source_by_name(tx: Transaction, name: str) -> Source | None:
    """Return a source that was not removed, by its name."""
    row = await tx.fetchrow(SQL.source_by_name, tx.scope.organization_id, name)
    return None if row is None else source_of(row)


async def list_sources(tx: Transaction, after: UUID, limit: int, workspace_id: UUID | None) -> list[Source]:
    """Return sources by id, of one workspace where it is given."""
    rows = await tx.fetch(SQL.list_sources, tx.scope.organization_id, after, limit, workspace_id)
    return [source_of(row) for row in rows]


async def count_sources(tx: Transaction) -> int:
    """Return how many sources the organization has."""
    return int(await tx.fetchval(SQL.count_sources, tx.scope.organization_id))


async def change_source(tx: Transaction, source_id: UUID, given: dict[str, Any]) -> None:
    """Change the settings that were given; `default_acl` may be given as none."""
    acl: AccessList | None = given.get("default_acl")
    await tx.execute(
        SQL.change_source,
        tx.scope.organization_id,
        source_id,
        None if given.get("config") is None else to_text(given["config"]),
        "default_acl" in given,
        acl_text(acl),
        given.get("strict"),
        given.get("mode"),
        given.get("observe_principals"),
        given.get("sync_every_s"),
        given.get("acl_max_age_s"),
        given.get("name"),
    )


async def set_state(
    tx: Transaction, source_id: UUID, state: SourceState, reason: str | None, *, is_by_person: bool
) -> bool:
    """Change what a source does; a loop changes nothing of a source that a person darkened or paused."""
    values = (tx.scope.organization_id, source_id, state, reason, is_by_person)
    return bool(await tx.execute(SQL.set_source_state, *values))


async def confirm_acls(tx: Transaction, source_id: UUID, read_us: int) -> None:
    """Remember when all access lists of a source were read."""
    await tx.execute(SQL.confirm_acls, tx.scope.organization_id, source_id, read_us)


async def remove_source(tx: Transaction, source_id: UUID, job_id: UUID, now_us: int) -> bool:
    """Make a source dark for ever and leave its rows to the job."""
    gone = await tx.execute(SQL.remove_source, tx.scope.organization_id, source_id, now_us)
    if gone:
        await tx.execute(SQL.add_purge_job, tx.scope.organization_id, source_id, job_id)
    return bool(gone)


async def document_counts(tx: Transaction, source_id: UUID) -> dict[str, int]:
    """Return how many documents are live, quarantined, deleted and held."""
    counts = {"live": 0, "quarantined": 0, "deleted": 0, "held": 0}
    for row in await tx.fetch(SQL.source_documents, tx.scope.organization_id, source_id):
        if row["state"] in counts:
            counts[row["state"]] += row["documents"]
        counts["held"] += row["held"]
    return counts


async def backlog(tx: Transaction, source_id: UUID) -> Backlog:
    """Return what waits of a source and of its organization."""
    row = await tx.fetchrow(SQL.source_backlog, tx.scope.organization_id, source_id)
    return Backlog(**row) if row is not None else Backlog(0, 0, 0, 0, 0, 0)


async def index_lag_s(tx: Transaction, source_id: UUID | None) -> float:
    """Return how long the oldest passage of a source waits for its vector, of the organization without a source."""
    return float(await tx.fetchval(SQL.oldest_job_age, tx.scope.organization_id, source_id) or 0.0)


async def standing(tx: Transaction) -> Standing:
    """Return how the index of the organization stands."""
    organization_id = tx.scope.organization_id
    row = await tx.fetchrow(SQL.index_standing, organization_id)
    codes = await tx.fetch(SQL.quarantined_by_code, organization_id)
    quarantined = {each["code"]: each["documents"] for each in codes}
    live, confirmed, purges = row.values() if row is not None else (0, 0, 0)
    return Standing(live, confirmed, purges, quarantined)


async def people(
    tx: Transaction, ids: Sequence[UUID], addresses: Sequence[str], groups: Sequence[str]
) -> list[tuple[str, UUID, str]]:
    """Return those users, groups and service accounts that exist, as kind, id and name."""
    rows = await tx.fetch(SQL.people_by_name, tx.scope.organization_id, list(ids), list(addresses), list(groups))
    return [(row["kind"], row["id"], row["name"]) for row in rows]


async def put_aliases(
    tx: Transaction, source_id: UUID, rows: Iterable[tuple[str, UUID, UUID, str]], by: UUID, now_us: int
) -> None:
    """Map outside names: (external, its id, principal, kind)."""
    organization_id = tx.scope.organization_id
    await tx.executemany(
        SQL.put_alias,
        [(organization_id, source_id, name, its_id, who, kind, by, now_us) for name, its_id, who, kind in rows],
    )
