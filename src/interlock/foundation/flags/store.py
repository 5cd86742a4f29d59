"""Rows of flags and kill switches to types.

Decides nothing; every function over one organization takes its transaction, which has the scope.
"""

from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.flags.domain.flags import Flag, FlagSpec
from interlock.foundation.flags.domain.kills import Kill, KillScope
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, format_id, parse_id
from interlock.foundation.store import Queries, Store, Transaction

SQL: Final = Queries("interlock.foundation.flags")


async def load_kills(store: Store, rows_max: int) -> tuple[Kill, ...]:
    """Return every switch that is on, of all organizations."""
    async with store.ops("kill switches") as tx:
        return tuple(kill_of(row) for row in await tx.fetch(SQL.all_kills, rows_max))


async def load_flags(store: Store, rows_max: int) -> list[Flag]:
    """Return every flag of all organizations."""
    async with store.ops("flags") as tx:
        return [flag_of(row) for row in await tx.fetch(SQL.all_flags, rows_max)]


async def turn_on(tx: Transaction, kill: Kill, kill_id: UUID, epoch: int) -> Kill | None:
    """Insert a switch, or take over the one that is on for the same target; None where it is the operator's alone."""
    row = await tx.fetchrow(
        SQL.turn_on,
        kill.organization_id,
        kill_id,
        kill.scope,
        kill.target,
        kill.mode,
        kill.reason,
        kill.actor,
        epoch,
        kill.created_us,
        kill.is_of_platform,
    )
    return None if row is None else kill_of(row)


async def lift(tx: Transaction, kill_id: UUID, now_us: int, reason: str) -> Kill | None:
    """Turn a switch off; None when there is none that is on."""
    row = await tx.fetchrow(SQL.lift, kill_id, now_us, reason)
    return None if row is None else kill_of(row)


async def list_kills(tx: Transaction, after: UUID, limit: int) -> list[Kill]:
    """Return switches of the transaction's organization that are on."""
    rows = await tx.fetch(SQL.list_kills, tx.scope.organization_id, after, limit)
    return [kill_of(row) for row in rows]


async def list_every_kill(tx: Transaction, after: UUID, limit: int) -> list[Kill]:
    """Return switches of all organizations that are on; needs a transaction of the loops."""
    return [kill_of(row) for row in await tx.fetch(SQL.every_kill, after, limit)]


async def find_target(
    tx: Transaction, scope: KillScope, identity: UUID | None, name: str, organization_id: UUID
) -> UUID | None:
    """Return the id of an organization, workspace or key that the transaction sees, by id or by name."""
    if scope is KillScope.WORKSPACE:
        found = await tx.fetchval(SQL.workspace_target, identity, name, organization_id)
    else:
        query = SQL.organization_target if scope is KillScope.ORGANIZATION else SQL.key_target
        found = await tx.fetchval(query, identity, name)
    return None if found is None else UUID(str(found))


async def find_beta(tx: Transaction, named: str, organization_id: UUID | None) -> tuple[str, UUID | None] | None:
    """Return name and, where `named` is its id, owner of a beta of an organization or the platform; of any for None."""
    try:
        identity = parse_id("flag", named)
    except MalformedIdError:
        identity = None
    found = await tx.fetchrow(SQL.beta_target, named, identity, organization_id, SYSTEM_ORGANIZATION_ID)
    return None if found is None else (found["name"], found["owner_id"])


async def put_flag(tx: Transaction, flag: Flag) -> Flag:
    """Insert a flag or replace the one of the same name."""
    spec = msgspec.json.encode(flag.spec).decode()
    row = await tx.fetchrow(
        SQL.put_flag,
        flag.organization_id,
        flag.id,
        flag.name,
        flag.kind,
        spec,
        flag.owner,
        flag.reason,
        flag.until_us,
    )
    return flag_of(row)


async def list_flags(tx: Transaction, after: str, limit: int) -> list[Flag]:
    """Return flags of the transaction's organization."""
    return [flag_of(row) for row in await tx.fetch(SQL.list_flags, tx.scope.organization_id, after, limit)]


async def get_flag(tx: Transaction, identity: UUID | None, name: str) -> Flag | None:
    """Return a flag of the transaction's organization by id or name."""
    row = await tx.fetchrow(SQL.get_flag, tx.scope.organization_id, identity, name)
    return None if row is None else flag_of(row)


async def delete_flag(tx: Transaction, flag_id: UUID) -> Flag | None:
    """Delete a flag and return it; None when there is none."""
    row = await tx.fetchrow(SQL.delete_flag, flag_id)
    return None if row is None else flag_of(row)


def kill_of(row: Any) -> Kill:
    """Return the switch of a row."""
    return Kill(
        id=format_id("kill", row["id"]),
        organization_id=row["organization_id"],
        scope=row["scope"],
        target=row["target"],
        mode=row["mode"],
        reason=row["reason"],
        actor=row["actor"],
        created_us=row["created_us"],
        epoch=row["epoch"],
        is_of_platform=row["is_of_platform"],
    )


def flag_of(row: Any) -> Flag:
    """Return the flag of a row."""
    spec = msgspec.json.decode(row["spec"], type=FlagSpec)
    names = ("organization_id", "id", "name", "kind", "owner", "reason", "until_us", "version")
    return Flag(spec=spec, **{name: row[name] for name in names})
