"""Use cases of kill switches and flags: turn on, lift, wait until everybody knows; set a flag, each with its audit row.

Evaluates nothing; `KillSwitches` and `FlagBook` do, in memory.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import store as rows
from interlock.foundation.flags.config import FlagsConfig
from interlock.foundation.flags.domain.flags import BASIS_POINTS, BETA, Flag, FlagSpec
from interlock.foundation.flags.domain.kills import OF_THE_PLATFORM, TARGET_KINDS, Kill, KillMode, KillScope
from interlock.foundation.flags.feed import KILLS, SQL, bump
from interlock.foundation.ids import (
    SYSTEM_ORGANIZATION_ID,
    IdFactory,
    MalformedIdError,
    OrganizationId,
    format_id,
    parse_id,
)
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Role, Scope
from interlock.foundation.store import Store, Transaction

# Finds a target by name or id, in an organization and the platform, or in all of them: its name, and whose it is where
# it was named by its id, which only one has; None where there is none. Its transaction is one of the loops.
TargetFinder = Callable[[Transaction, str, UUID | None], Awaitable[tuple[str, UUID | None] | None]]
# Asked before a flag of the platform is set, by its name; raises what refuses it.
FlagGuard = Callable[[Scope, FlagSpec], Awaitable[None]]
_POLL_S: Final = 0.02
_SHARED: Final = ("scheduler.",)
TARGET_CHARS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Propagation:
    """Which processes know of a change, which live ones do not yet, and how long that took."""

    propagation_ms: int
    acknowledged: list[str]
    missing: list[str]


class KillService:
    """Turns switches on and off. `on_propagation` is told who knew of each change, and after how long.

    `finders` know the objects of other systems; a name of a scope that has none is taken as it is.
    """

    def __init__(  # noqa: PLR0913 - what stands beside the store is a constructor argument
        self,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        config: FlagsConfig | None = None,
        *,
        on_propagation: Callable[[Propagation], None] | None = None,
        finders: Mapping[KillScope, TargetFinder] | None = None,
    ) -> None:
        self._finders: Mapping[KillScope, TargetFinder] = {KillScope.BETA: rows.find_beta, **(finders or {})}
        self._store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._config = config or FlagsConfig()
        self._on_propagation = on_propagation

    async def turn_on(self, scope: Scope, wanted: Kill) -> tuple[Kill, Propagation]:
        """Commit the switch, then wait until every live process has acted on it, at most a second.

        No organization can lift a switch of the platform's operator. It counts for everybody, but on the id of what an
        organization has, a route or a deployment, for that one alone. Raises
        `invalid_request` for a scope or mode that does not exist, `role_denied`, `not_found`.
        """
        self._require_sense(wanted)
        kind, principal = KillScope(wanted.scope), scope.principal
        if kind in OF_THE_PLATFORM and not principal.is_platform_operator:
            raise _operators_alone()
        target, owner_id = await self._target(scope, kind, wanted.target)
        if not principal.is_platform_operator:
            owner_id = scope.organization_id
        kill = msgspec.structs.replace(
            wanted,
            target=target,
            actor=actor_name(principal),
            organization_id=owner_id,
            created_us=self._clock.now_us(),
            is_of_platform=principal.is_platform_operator,
        )
        began = self._clock.monotonic()
        async with self._store.transaction(_whole(scope, owner_id)) as tx:
            epoch = await bump(tx, KILLS)
            made = await rows.turn_on(tx, kill, self._ids.new(), epoch)
            if made is None:
                raise _operators_alone("The platform's operator has stopped this.")
            detail = {"scope": kill.scope, "target": kill.target, "mode": kill.mode}
            await self._audit.append(tx, AuditEntry("kill.on", "kill", made.id, reason=kill.reason, detail=detail))
        return made, await self._propagated(epoch, began)

    async def lift(self, scope: Scope, kill_id: UUID, reason: str) -> tuple[Kill, Propagation]:
        """Commit that the switch is off, then wait as `turn_on` does. Raises `not_found`, `role_denied`."""
        principal, owner_id = scope.principal, scope.organization_id
        roles = {each.role for each in principal.memberships if each.workspace_id is None}
        if not principal.is_platform_operator and not roles & {Role.OWNER, Role.ADMIN}:
            raise InterlockError("role_denied", detail={"action": "kill:write", "roles": ["admin", "owner"]})
        if not reason.strip():
            raise InterlockError("invalid_request", "Lifting a switch needs a reason.", detail={"field": "reason"})
        if principal.is_platform_operator:
            async with self._store.ops("whose switch is lifted") as tx:
                owner_id = await tx.fetchval(SQL.kill_owner, kill_id) or owner_id
        began = self._clock.monotonic()
        async with self._store.transaction(_whole(scope, owner_id)) as tx:
            epoch = await bump(tx, KILLS)
            if not principal.is_platform_operator and await tx.fetchval(rows.SQL.is_of_platform, kill_id):
                raise _operators_alone("The platform's operator has stopped this.")
            lifted = await rows.lift(tx, kill_id, self._clock.now_us(), reason)
            if lifted is None:
                raise InterlockError("not_found")
            detail = {"scope": lifted.scope, "target": lifted.target}
            await self._audit.append(tx, AuditEntry("kill.off", "kill", lifted.id, reason=reason, detail=detail))
        return lifted, await self._propagated(epoch, began)

    async def listed(self, scope: Scope, after: UUID | None, limit: int) -> list[Kill]:
        """Return the switches of the organization that are on; the platform's operator sees those of all."""
        start = after or UUID(int=0)
        if scope.principal.is_platform_operator:
            async with self._store.ops("switches of all organizations") as tx:
                return await rows.list_every_kill(tx, start, limit)
        async with self._store.transaction(scope) as tx:
            return await rows.list_kills(tx, start, limit)

    @staticmethod
    def _require_sense(wanted: Kill) -> None:
        if wanted.scope not in set(KillScope) or wanted.mode not in set(KillMode):
            known = {"scopes": [str(each) for each in KillScope], "modes": [str(each) for each in KillMode]}
            raise InterlockError("invalid_request", "There is no such kill scope or mode.", detail=known)
        if not wanted.reason.strip():
            raise InterlockError("invalid_request", "A kill switch needs a reason.", detail={"field": "reason"})
        if wanted.scope == KillScope.GATEWAY and wanted.target != "*":
            raise InterlockError("invalid_request", "The target of `gateway` is `*`.", detail={"field": "target"})
        if not 0 < len(wanted.target) <= TARGET_CHARS_MAX:
            raise InterlockError("invalid_request", "A kill switch needs a target.", detail={"field": "target"})

    async def _target(self, scope: Scope, kind: KillScope, text: str) -> tuple[str, UUID]:
        """Return the uuid of a tenant or key that the caller may see, or the name of what else there is.

        And whose a switch of the operator on it is: an id names what one organization has, all else is everybody's.
        Raises `not_found`: a switch on what does not exist would be believed to stop something.
        """
        is_operator = scope.principal.is_platform_operator
        found: tuple[object, UUID | None] | None
        if kind in TARGET_KINDS:
            tenant = await self._tenant(scope, kind, text)
            found = None if tenant is None else (tenant, None)
        elif kind in self._finders:
            async with self._store.ops("target of a switch") as tx:
                found = await self._finders[kind](tx, text, None if is_operator else scope.organization_id)
        else:
            found = text, None
        if found is None:
            raise InterlockError("not_found", f"There is no {kind} {text!r}.", detail={"field": "target"})
        return str(found[0]), found[1] or SYSTEM_ORGANIZATION_ID

    async def _tenant(self, scope: Scope, kind: KillScope, text: str) -> UUID | None:
        try:
            identity = parse_id(TARGET_KINDS[kind], text)
        except MalformedIdError:
            identity = None
        is_operator = scope.principal.is_platform_operator
        place = self._store.ops("target of a switch") if is_operator else self._store.transaction(scope)
        async with place as tx:
            return await rows.find_target(tx, kind, identity, text, scope.organization_id)

    async def _propagated(self, epoch: int, began: float) -> Propagation:
        """Wait for the acknowledgements of live processes."""
        deadline = began + self._config.acknowledge_wait_s
        while True:
            async with self._store.ops("who knows of a kill") as tx:
                found = await tx.fetch(SQL.acknowledgements, epoch, self._config.process_alive_s)
            missing = [row["process"] for row in found if not row["has_seen"]]
            took_s = self._clock.monotonic() - began
            if not missing or self._clock.monotonic() >= deadline:
                acknowledged = [row["process"] for row in found if row["has_seen"]]
                propagation = Propagation(round(took_s * 1_000), acknowledged, missing)
                if self._on_propagation is not None:
                    self._on_propagation(propagation)
                return propagation
            await self._clock.sleep(_POLL_S)


class FlagService:
    """Sets, lists and deletes flags. `guards` are asked before a flag of theirs is set for the whole platform."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        *,
        guards: Mapping[str, FlagGuard] | None = None,
    ) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._guards = guards or {}

    async def put(self, tx: Transaction, flag: Flag) -> Flag:
        """Insert or replace a flag. Raises `invalid_request` for a rollout or variant that makes no sense."""
        spec = flag.spec
        if not 0 <= spec.rollout_bp <= BASIS_POINTS:
            raise InterlockError("invalid_request", "A rollout is 0 to 100 percent.", detail={"field": "rollout"})
        if spec.default not in spec.variants or spec.when_on not in spec.variants:
            raise InterlockError(
                "invalid_request", "`default` and `when_on` name variants.", detail={"field": "variants"}
            )
        made = await rows.put_flag(tx, flag)
        await bump(tx, "flags")
        detail = {"rollout_bp": spec.rollout_bp, "is_on": str(spec.is_on).lower(), "version": made.version}
        await self._audit.append(tx, AuditEntry("flag.set", "flag", made.name, reason=made.reason, detail=detail))
        return made

    def new(self, tx: Transaction, name: str, reason: str, spec: FlagSpec, until_us: int | None) -> Flag:
        """Return a flag of the caller, not stored yet."""
        owner = actor_name(tx.scope.principal)
        kind = "boolean" if spec.variants == {"on": True, "off": False} else "variant"
        kind = kind if spec.match_kind is None else BETA
        return Flag(
            organization_id=tx.scope.organization_id,
            id=self._ids.new(),
            name=name,
            kind=kind,
            spec=spec,
            owner=owner,
            reason=reason,
            until_us=until_us,
        )

    async def put_asked(self, tx: Transaction, flag: Flag) -> Flag:
        """Insert or replace a flag as its caller asked.

        A beta of the platform's operator is the platform's: no organization can open it. So is a flag of a system that
        all organizations share, which looks for it there alone. Raises what a guard of the flag does.
        """
        is_shared = flag.kind == BETA or flag.name.startswith(_SHARED)
        if not is_shared or not tx.scope.principal.is_platform_operator:
            return await self.put(tx, flag)
        flag.organization_id, within = SYSTEM_ORGANIZATION_ID, _whole(tx.scope, SYSTEM_ORGANIZATION_ID)
        if flag.name in self._guards:
            await self._guards[flag.name](within, flag.spec)
        async with self._store.transaction(within) as inside:
            return await self.put(inside, flag)

    async def listed(self, scope: Scope, after: str | None, limit: int) -> list[Flag]:
        """Return the flags of the organization; the platform's operator sees those of the platform, too."""
        found: list[Flag] = []
        for each in _seen(scope):
            async with self._store.transaction(each) as tx:
                found += await rows.list_flags(tx, after or "", limit)
        return sorted(found, key=lambda flag: flag.name)[:limit]

    async def get(self, scope: Scope, identity: UUID | None, name: str) -> Flag:
        """Return one flag of the organization by id or name. Raises `not_found`."""
        for each in _seen(scope):
            async with self._store.transaction(each) as tx:
                found = await rows.get_flag(tx, identity, name)
            if found is not None:
                return found
        raise InterlockError("not_found")

    async def delete(self, tx: Transaction, flag_id: UUID) -> Flag:
        """Delete a flag. Raises `not_found`."""
        gone = await self._deleted(tx, flag_id)
        if gone is None and tx.scope.principal.is_platform_operator:
            async with self._store.transaction(_whole(tx.scope, SYSTEM_ORGANIZATION_ID)) as inside:
                gone = await self._deleted(inside, flag_id)
        if gone is None:
            raise InterlockError("not_found")
        return gone

    async def _deleted(self, tx: Transaction, flag_id: UUID) -> Flag | None:
        gone = await rows.delete_flag(tx, flag_id)
        if gone is not None:
            await bump(tx, "flags")
            await self._audit.append(tx, AuditEntry("flag.delete", "flag", gone.name))
        return gone


def actor_name(principal: Principal) -> str:
    """Return who acted, as lists show it."""
    if principal.kind is PrincipalKind.SYSTEM:
        return "system"
    return format_id("usr" if principal.kind is PrincipalKind.USER else "sa", principal.id)


def _operators_alone(message: str | None = None) -> InterlockError:
    return InterlockError("role_denied", message, detail={"action": "kill:write", "roles": ["platform operator"]})


def _seen(scope: Scope) -> list[Scope]:
    """Return where a caller's flags are."""
    return [scope, _whole(scope, SYSTEM_ORGANIZATION_ID)] if scope.principal.is_platform_operator else [scope]


def _whole(scope: Scope, organization_id: UUID) -> Scope:
    return replace(scope, organization_id=OrganizationId(organization_id), workspace_id=ALL_WORKSPACES)
