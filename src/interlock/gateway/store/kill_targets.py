"""Whether a route, deployment or provider that a kill switch names exists, for whom it would count.

Stops nothing; `foundation/flags` does.
"""

from typing import Final
from uuid import UUID

from interlock.foundation.flags import KillScope
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, parse_id
from interlock.foundation.store import Queries, Query, Transaction

SQL: Final = Queries("interlock.gateway")
_NAMED: Final = {
    KillScope.ROUTE: ("route", SQL.kill_route),
    KillScope.DEPLOYMENT: ("dep", SQL.kill_deployment),
    KillScope.PROVIDER: ("prov", SQL.kill_provider),
}


class KillTarget:
    """Finds what switches of one scope name. Needs a transaction of the loops: the platform's rows are no tenant's."""

    def __init__(self, kind: str, query: Query) -> None:
        self._kind = kind
        self._query = query

    async def __call__(
        self, tx: Transaction, named: str, organization_id: UUID | None
    ) -> tuple[str, UUID | None] | None:
        """Return the name of what an organization or the platform has, and its owner where `named` is its id.

        Looks at everybody's for None.
        """
        try:
            identity = parse_id(self._kind, named)
        except MalformedIdError:
            identity = None
        found = await tx.fetchrow(self._query, named, identity, organization_id, SYSTEM_ORGANIZATION_ID)
        return None if found is None else (found["name"], found["owner_id"])


def kill_targets() -> dict[KillScope, KillTarget]:
    """Return what finds the targets of switches on the gateway's own objects."""
    return {scope: KillTarget(kind, query) for scope, (kind, query) in _NAMED.items()}
