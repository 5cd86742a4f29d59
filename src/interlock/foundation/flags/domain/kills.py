"""Kill switches: what can be stopped, how, and whether a piece of work is.

A switch only ever stops; nothing in here can start anything.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID


class KillMode(StrEnum):
    """`reject` refuses new work, `drain` also what waits or retries, `abort` ends what runs."""

    REJECT = "reject"
    DRAIN = "drain"
    ABORT = "abort"


class KillScope(StrEnum):
    """What a switch can stop. The scopes of systems that are not built yet come with them."""

    GATEWAY = "gateway"
    ORGANIZATION = "organization"
    WORKSPACE = "workspace"
    KEY = "key"
    ROUTE = "route"
    DEPLOYMENT = "deployment"
    PROVIDER = "provider"
    BETA = "beta"
    POOL = "pool"
    ENGINE = "engine"
    CLASS = "class"
    RETRIEVAL = "retrieval"
    RETRIEVAL_SOURCE = "retrieval_source"
    CRAWLER = "crawler"
    CRAWL = "crawl"
    CRAWL_HOST = "crawl_host"
    AGENTS = "agents"


# What belongs to the platform alone, so that only its operator stops it.
OF_THE_PLATFORM: Final = frozenset({KillScope.GATEWAY, KillScope.ENGINE})
# The kind of id that a target is; the others are names, and the whole gateway is `*`.
TARGET_KINDS: Final = {KillScope.ORGANIZATION: "org", KillScope.WORKSPACE: "ws", KillScope.KEY: "key"}
# Names that several organizations may use: a switch of one organization must not stop another's.
_NAMED: Final = frozenset({
    KillScope.ROUTE, KillScope.DEPLOYMENT, KillScope.PROVIDER, KillScope.BETA, KillScope.POOL, KillScope.CLASS,
    KillScope.RETRIEVAL, KillScope.RETRIEVAL_SOURCE, KillScope.CRAWLER, KillScope.CRAWL, KillScope.CRAWL_HOST,
    KillScope.AGENTS,
})  # fmt: skip


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One switch that is on. `target` is a uuid's text, a name, or `*`.

    `is_of_platform` says that the platform's operator set it, also on one organization: only the operator lifts it.
    """

    id: str
    organization_id: UUID
    scope: str
    target: str
    mode: str
    reason: str
    actor: str
    created_us: int
    epoch: int = 0
    is_local: bool = False
    is_of_platform: bool = False


class KillBoard:
    """All switches that are on, by what they stop. Replaced whole."""

    def __init__(self, kills: Iterable[Kill] = ()) -> None:
        self.kills = tuple(kills)
        self._by_target: dict[tuple[str, str], list[Kill]] = {}
        for kill in self.kills:
            self._by_target.setdefault((kill.scope, kill.target), []).append(kill)

    def check(self, targets: Iterable[tuple[str, str]], organization_id: UUID | None = None) -> Kill | None:
        """Return the first switch that stops one of the targets.

        A switch on a name counts for the organization that set it, and for everybody when the platform did.
        """
        if not self._by_target:
            return None
        for target in targets:
            for kill in self._by_target.get(target, ()):
                if kill.scope not in _NAMED or kill.organization_id in (organization_id, SYSTEM_ORGANIZATION_ID):
                    return kill
        return None
