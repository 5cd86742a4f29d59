"""Controls are proved again before they grow old, and once their suite changed. Proves nothing itself."""

from typing import Any, Final

import structlog

from interlock.evals.service.gate_rows import Gate, find_gate
from interlock.evals.service.gates import Gates
from interlock.evals.service.suites import version_of
from interlock.evals.store import SQL
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId, format_id
from interlock.foundation.scope import Principal, PrincipalKind, Scope
from interlock.foundation.store import Store, Transaction

_HOUR_US: Final = 3_600_000_000
# Proved again at half of the age at which a proof counts no more.
_RENEWED_AT: Final = 0.5
_log = structlog.get_logger("evals")


class Prover:
    """Renews controls that grow old or whose suite changed, of every gate that had some."""

    def __init__(self, store: Store, gates: Gates, clock: Clock) -> None:
        self._store = store
        self._gates = gates
        self._clock = clock

    async def run_once(self) -> int:
        """Prove what is due; return how many gates were."""
        async with self._store.ops("gates whose controls grow old") as tx:
            found = await tx.fetch(SQL.all_gates)
        return sum([await self._prove(row) for row in found])

    async def _prove(self, row: Any) -> bool:
        organization, workspace = OrganizationId(row["organization_id"]), WorkspaceId(row["workspace_id"])
        prover = Principal(PrincipalId(row["id"]), PrincipalKind.SYSTEM, organization, workspace)
        named = format_id("gate", row["id"])
        try:
            async with self._store.transaction(Scope(organization, workspace, prover)) as tx:
                if not await self._is_due(tx, await find_gate(tx, named)):
                    return False
                await self._gates.controls(tx, named, None)
        except InterlockError as error:
            # One tenant's gate must not keep the others from being proved; it disarms by its age.
            _log.warning("controls_not_run", gate=named, code=error.code)
            return False
        return True

    async def _is_due(self, tx: Transaction, gate: Gate) -> bool:
        known = await tx.fetch(SQL.controls_of, tx.scope.organization_id, gate.id, gate.policy_digest)
        if not known:
            return False
        oldest_us = self._clock.now_us() - round(gate.policy.controls_max_age_h * _HOUR_US * _RENEWED_AT)
        newest = {check.name: await version_of(tx, check.suite, None) for check in gate.policy.checks}
        return any(
            row["at_us"] < oldest_us or row["suite_digest"] != newest[row["check_name"]]["suite_digest"]
            for row in known
        )
