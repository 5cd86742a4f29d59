"""The first start: organizations `system` and `default`, a workspace, an owner and the first key.

Does nothing on any later start.
"""

from collections.abc import Callable
from typing import Final

from interlock.foundation.clock import Clock
from interlock.foundation.flags import bump
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.policy import ALL_SCOPES
from interlock.foundation.identity.keys import KeyService, KeyWanted
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, OrganizationId, PrincipalId
from interlock.foundation.scope import ALL_WORKSPACES, Membership, Principal, PrincipalKind, Role, Scope
from interlock.foundation.store import Store

OWNER_EMAIL: Final = "owner@localhost"
_CHIEF: Final = (Membership(Role.OWNER, None),)


async def bootstrap(
    store: Store, keys: KeyService, clock: Clock, ids: IdFactory, save_key: Callable[[bytes], None]
) -> bool:
    """Make what a platform cannot be without; return whether it was missing.

    `save_key` writes the owner's key before the transaction commits: a crash in between leaves a key that nobody
    knows, and the next start makes another.
    """
    async with store.ops("is this the first start") as tx:
        if await tx.fetchval(SQL.organization_by_name, "default") is not None:
            return False
    now_us, user_id = clock.now_us(), PrincipalId(ids.new())
    default, workspace_id = OrganizationId(ids.new()), ids.new()
    operator = Principal(
        user_id, PrincipalKind.USER, default, None, _CHIEF, scopes=ALL_SCOPES, is_platform_operator=True
    )
    scope = Scope(default, ALL_WORKSPACES, operator)
    async with store.transaction(scope) as tx:
        for organization, name in ((SYSTEM_ORGANIZATION_ID, "system"), (default, "default")):
            await tx.fetchrow(SQL.set_tenant, str(organization), "*")
            await tx.fetchrow(SQL.add_organization, organization, name, None, now_us)
            member = (organization, ids.new(), None, user_id, "user", Role.OWNER, now_us)
            await tx.fetchrow(SQL.add_membership, *member)
            await tx.fetchval(SQL.raise_epoch, organization)
        await tx.fetchrow(SQL.add_workspace, default, workspace_id, "default", now_us)
        await tx.fetchrow(SQL.add_user, default, user_id, OWNER_EMAIL, "Owner", now_us)
        wanted = KeyWanted("default", "owner", tuple(sorted(ALL_SCOPES)))
        _, text = await keys.insert_for(tx, (user_id, "user"), workspace_id, wanted)
        await bump(tx, "identity")
        save_key(f"{text}\n".encode())
    return True
