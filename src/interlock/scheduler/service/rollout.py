"""How a pool's policy changes: versions with a way back, and a candidate on its way from the shadow to everybody.

Decides nothing about requests; the leader of the pool tries what stands here, and ends what keeps fewer promises.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from interlock.contracts.gates import RequiredGates
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.flags.service import actor_name
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.scheduler import store as rows
from interlock.scheduler.domain.arms import BASIS_POINTS
from interlock.scheduler.domain.versions import PoolSettings, artifact_digest, changed, flat
from interlock.scheduler.service.gating import PolicyGate, Step, blocked_canaries
from interlock.scheduler.service.pools import TOPIC, PoolRow, PoolService, set_each
from interlock.scheduler.service.trials import Ended

_OWNER: Final = SYSTEM_ORGANIZATION_ID
NEWEST: Final = 1 << 30
# How the reason of a version begins that was made by going back; `pool_version` reads by it what was left.
_BACK: Final = "back to version "
_AGAIN_S: Final = 1.0
Fences = Callable[[], Mapping[str, int]]
_log = structlog.get_logger(__name__)


class PoolRollouts:
    """Use cases of `/admin/v1/pools/{name}/versions` and `/candidate`."""

    def __init__(self, pools: PoolService, audit: AuditLog, clock: Clock, gate: PolicyGate | None = None) -> None:
        self._pools = pools
        self._audit = audit
        self._clock = clock
        self._gate = gate

    async def set(self, tx: Transaction, name: str, changes: Mapping[str, str], version: int | None) -> PoolRow:
        """Change settings for everybody at once. Raises what `PoolService.set` and a required gate do."""
        pool = await self._pools.get(tx, name)
        wanted = set_each(pool.settings, {key: value for key, value in changes.items() if key != "draining"})
        if wanted != pool.settings:
            await self._admitted(tx, Step("pool.set", name, wanted, BASIS_POINTS))
        return await self._pools.set(tx, name, changes, version)

    async def versions(self, tx: Transaction, name: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Return the versions of a pool's settings, newest first. Raises `pool_unknown`."""
        await self._pools.get(tx, name)
        return [
            _version_json(name, each) for each in await tx.fetch(rows.SQL.pool_versions, _OWNER, name, before, limit)
        ]

    async def back(self, tx: Transaction, name: str, version: int, if_match: int | None) -> PoolRow:
        """Set what a former version had; that is a new version. Raises `pool_unknown`, `not_found`.

        A version that the pool was taken back from, or back past, is no way back: a required gate is asked as if it
        were set by hand.
        """
        pool = await self._pools.get(tx, name)
        row = await tx.fetchrow(rows.SQL.pool_version, _OWNER, name, version)
        if row is None:
            raise InterlockError("not_found", f"Pool {name} has no version {version} that is known.")
        settings = rows.settings_of(row)
        if row["was_left"] and settings != pool.settings:
            await self._admitted(tx, Step("pool.back", name, settings, BASIS_POINTS))
        return await self._pools.put(tx, pool, settings, if_match, f"{_BACK}{version}")

    async def attempt(self, tx: Transaction, name: str, changes: Mapping[str, str]) -> dict[str, Any]:
        """Try changed settings in the shadow. Raises `pool_unknown`, `invalid_request`, `rollout_active`."""
        pool = await self._pools.get(tx, name)
        wanted = set_each(pool.settings, changes)
        if wanted == pool.settings:
            raise InterlockError(
                "invalid_request", "Nothing differs from what the pool runs.", detail={"field": "settings"}
            )
        now_us, actor = self._clock.now_us(), actor_name(tx.scope.principal)
        values = (wanted.policy, wanted.share_level, rows.objectives_text(wanted.objectives), actor, now_us)
        if not await tx.execute(rows.SQL.try_candidate, _OWNER, name, *values, pool.version):
            raise InterlockError(
                "rollout_active", f"A candidate of pool {name} decides for some workspaces; end it first."
            )
        await self._told(tx, "pool.shadow", name, _spoken(changed(pool.settings, wanted)))
        return await self.candidate(tx, name)

    async def canary(self, tx: Transaction, name: str, share_bp: int, number: int | None = None) -> dict[str, Any]:
        """Let the candidate, or this try of it alone, decide for a share of the workspaces.

        That is the next try. Raises `not_found`, `invalid_request`, `version_conflict`, and what a required gate does.
        """
        if not 0 < share_bp <= BASIS_POINTS:
            raise InterlockError("invalid_request", "`share_bp` is 1 to 10000.", detail={"field": "share_bp"})
        found = await self._open(tx, name, number)
        step = Step("pool.canary", name, rows.settings_of(found), share_bp, found["number"])
        verdicts = await self._admitted(tx, step)
        await tx.execute(rows.SQL.widen_candidate, _OWNER, name, share_bp)
        await self._told(tx, "pool.canary", name, {"share_bp": share_bp, **verdicts})
        return await self.candidate(tx, name)

    async def promote(self, tx: Transaction, name: str, if_match: int | None, number: int | None = None) -> PoolRow:
        """Let everybody be decided by the candidate, or by this try of it alone, where the pool has this version.

        Its settings are the pool's next version. Without a version none of them may have changed since the candidate
        was begun. Raises `not_found`, `version_conflict`, and what a required gate does.
        """
        found = await self._open(tx, name, number)
        pool = await self._pools.get(tx, name)
        if if_match is None:
            await self._require_unchanged(tx, pool, found["base_version"])
        step = Step("pool.promote", name, rows.settings_of(found), BASIS_POINTS, found["number"])
        verdicts = await self._admitted(tx, step)
        reason, version = f"candidate {found['number']} promoted", pool.version if if_match is None else if_match
        made = await self._pools.put(tx, pool, rows.settings_of(found), version, reason)
        await self._end(tx, name, found["number"], "promoted", {"version": made.version, **verdicts})
        return made

    @staticmethod
    async def _require_unchanged(tx: Transaction, pool: PoolRow, base: int | None) -> None:
        """Raise `version_conflict` where settings of the pool changed after a version, which nobody may know."""
        changed_in = None
        if base is not None:
            changed_in = await tx.fetchval(rows.SQL.settings_changed_since, _OWNER, pool.name, base)
        if changed_in is not None:
            text = f"Pool {pool.name} was changed by version {changed_in} since the candidate was begun at {base}."
            detail = {"version": pool.version, "changed_in": changed_in, "base_version": base}
            raise InterlockError("version_conflict", text, detail=detail)

    async def drop(self, tx: Transaction, name: str) -> dict[str, Any]:
        """End the try. Raises `not_found`."""
        found = await self._open(tx, name)
        await self._end(tx, name, found["number"], "dropped", {"reason": "by hand"})
        return await self.candidate(tx, name)

    async def ended(self, tx: Transaction, told: Ended, fence: int) -> None:
        """Note that the leader of a pool ended a try: `rolled_back` or `failed`, with the numbers.

        Where its fence was passed nothing is noted: another leads, and tries the candidate anew.
        """
        await self._end(tx, told.pool, told.number, told.stage, told.verdict, fence)

    async def withdraw(self, tx: Transaction, name: str, number: int, verdict: Mapping[str, Any]) -> None:
        """Roll a try back that its gate does not admit any more, whoever leads the pool."""
        await self._end(tx, name, number, "rolled_back", verdict)

    async def candidate(self, tx: Transaction, name: str) -> dict[str, Any]:
        """Return what is tried of a pool, or was tried last. Raises `pool_unknown`, `not_found`."""
        found = await self.tried(tx, name)
        if found is None:
            raise InterlockError("not_found", f"No candidate of pool {name} was ever tried.")
        return found

    async def gate(self, pool: str, digest: str) -> dict[str, Any] | None:
        """Return how the gates of a pool stand to settings of that digest; None where nobody asks them."""
        return None if self._gate is None else await self._gate.stands(pool, digest)

    async def _admitted(self, tx: Transaction, step: Step) -> dict[str, Any]:
        """Return the verdicts that a step rests on, for its audit row."""
        verdicts = () if self._gate is None else await self._gate.admit(tx.scope, step)
        return {"verdicts": list(verdicts)} if verdicts else {}

    async def tried(self, tx: Transaction, name: str) -> dict[str, Any] | None:
        """Return the same; None where nothing was ever tried. Raises `pool_unknown`."""
        pool = await self._pools.get(tx, name)
        row = await tx.fetchrow(rows.SQL.pool_candidate, _OWNER, name)
        return None if row is None else _candidate_json(pool, row)

    async def _open(self, tx: Transaction, name: str, number: int | None = None) -> Any:
        await self._pools.get(tx, name)
        row = await tx.fetchrow(rows.SQL.held_candidate, _OWNER, name)
        if row is None:
            raise InterlockError("not_found", f"No candidate of pool {name} is being tried.")
        if number is not None and number != row["number"]:
            raise InterlockError(
                "version_conflict", f"Try {row['number']} of pool {name} is open.", detail={"number": row["number"]}
            )
        return row

    async def _end(
        self, tx: Transaction, name: str, number: int, stage: str, verdict: Mapping[str, Any], fence: int | None = None
    ) -> None:
        now_us, text = self._clock.now_us(), msgspec.json.encode(verdict).decode()
        if await tx.execute(rows.SQL.end_candidate, _OWNER, name, number, stage, now_us, text, fence):
            await self._told(tx, f"pool.{stage}", name, {"candidate": number, **verdict})

    async def _told(self, tx: Transaction, action: str, name: str, detail: Mapping[str, Any]) -> None:
        await self._audit.append(tx, AuditEntry(action, "pool", name, detail=dict(detail)))
        await bump(tx, TOPIC)


class TrialEnds:
    """Writes what the leader of a pool ended; what it decides has changed before, whether the store is there or not."""

    def __init__(
        self, store: Store, rollouts: PoolRollouts, clock: Clock, scope: Callable[[], Scope], fences: Fences
    ) -> None:
        self._store = store
        self._rollouts = rollouts
        self._clock = clock
        self._scope = scope
        self._fences = fences

    async def tell(self, ended: Ended) -> None:
        """Write one end, as soon as the store takes it, under the fence that the pool is led by now."""
        fence = self._fences().get(ended.pool)
        while fence is not None and not await self._is_written(ended, fence):
            await self._clock.sleep(_AGAIN_S)
            # Who leads in name alone, because the store is away, learns its fence when that is back.
            fence = fence or self._fences().get(ended.pool)

    async def _is_written(self, ended: Ended, fence: int) -> bool:
        if not fence:
            return False
        try:
            async with self._store.transaction(self._scope()) as tx:
                await self._rollouts.ended(tx, ended, fence)
        except (InterlockError, OSError) as error:
            _log.warning("candidate_end_waits_for_store", pool=ended.pool, error=str(error))
            return False
        return True


class GateWatch:
    """Rolls back what decides for some and is no longer admitted: a verdict that failed, ended, or lost its gate."""

    def __init__(self, store: Store, rollouts: PoolRollouts, gates: RequiredGates, scope: Callable[[], Scope]) -> None:
        self._store = store
        self._rollouts = rollouts
        self._gates = gates
        self._scope = scope

    async def run_once(self) -> int:
        """Ask the gates of each pool with a canary; return how many canaries were rolled back."""
        async with self._store.ops("candidates that decide for some") as tx:
            candidates = await rows.read_candidates(tx)
        blocked = await blocked_canaries(self._gates, candidates)
        for pool, number, verdict in blocked:
            async with self._store.transaction(self._scope()) as tx:
                await self._rollouts.withdraw(tx, pool, number, verdict)
        return len(blocked)


def _version_json(pool: str, row: Any) -> dict[str, Any]:
    settings: PoolSettings = rows.settings_of(row)
    return {
        "version": row["version"],
        "settings": flat(settings),
        "artifact_digest": artifact_digest(pool, settings),
        "changed": msgspec.json.decode(row["changed"]),
        "reason": row["reason"],
        "by": row["actor"],
        "at": rfc3339(row["at_us"]),
    }


def _candidate_json(pool: PoolRow, row: Any) -> dict[str, Any]:
    settings: PoolSettings = rows.settings_of(row)
    return {
        "pool": pool.name,
        "number": row["number"],
        "stage": row["stage"],
        "share_bp": row["share_bp"],
        "base_version": row["base_version"],
        "pool_version": pool.version,
        "settings": flat(settings),
        "artifact_digest": artifact_digest(pool.name, settings),
        "changed": changed(pool.settings, settings),
        "by": row["actor"],
        "began_at": rfc3339(row["began_us"]),
        "ended_at": None if row["ended_us"] is None else rfc3339(row["ended_us"]),
        "verdict": None if row["verdict"] is None else msgspec.json.decode(row["verdict"]),
    }


def _spoken(differences: Mapping[str, list[Any]]) -> dict[str, str]:
    return {name: f"{before} -> {after}" for name, (before, after) in differences.items()}
