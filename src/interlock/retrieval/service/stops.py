"""What kill switches stop in retrieval: documents and searches of everybody or of one organization, or one source.

Deletions and changes of access are never stopped: a switch must not keep a leak open.
"""

from typing import Final
from uuid import UUID

from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope

_SCOPE: Final = "retrieval"
_SOURCE: Final = "retrieval_source"
_NO_SOURCE: Final = UUID(int=0)


class Stops:
    """The switches of this process, as retrieval asks them."""

    def __init__(self, switches: KillSwitches) -> None:
        self._switches = switches

    def require(self, scope: Scope, source_id: UUID | None = None) -> None:
        """Raise `killed` where a switch stops this organization, or this source."""
        organization_id = scope.organization_id
        targets = [(_SCOPE, "*"), (_SCOPE, format_id("org", organization_id))]
        if source_id is not None:
            targets.append((_SOURCE, format_id("src", source_id)))
        kill = self._switches.check(targets, organization_id)
        if kill is not None:
            raise InterlockError("killed", detail={"scope": kill.scope, "mode": kill.mode})

    def shut(self, scope: Scope) -> frozenset[UUID]:
        """Return the sources that a switch makes dark for this organization."""
        mine = {SYSTEM_ORGANIZATION_ID, scope.organization_id}
        return frozenset(
            _source_id(kill.target)
            for kill in self._switches.kills
            if kill.scope == _SOURCE and kill.organization_id in mine
        )


def _source_id(target: str) -> UUID:
    try:
        return parse_id("src", target)
    except MalformedIdError:
        return _NO_SOURCE
