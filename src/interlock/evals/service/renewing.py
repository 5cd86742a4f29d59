"""Controls are proved again before they grow old, and once their suite changed. Proves nothing itself."""

from typing import Any, Final

import structlog

from interlock.evals.metrics import EvalMetrics
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

    def __init__(self, store: Store, gates: Gates, clock: Clock, metrics: EvalMetrics) -> None:
        self._store = store
        self._gates = gates
        self._clock = clock
        self._metrics = metrics

    async def run_once(self) -> int:
        """Prove what is due; return how many gates were."""
        async with self._store.ops("gates whose controls grow old") as tx:
            found = await tx.fetch(SQL.all_gates)
        armed: dict[str, int] = {}
        ages_us: list[int] = []
        proved = sum([await self._prove(row, armed, ages_us) for row in found])
        self._metrics.armed(armed)
        self._metrics.controls_age.set(max(ages_us, default=0) / 1e6)
        return proved

    async def _prove(self, row: Any, armed: dict[str, int], ages_us: list[int]) -> bool:
        organization, workspace = OrganizationId(row["organization_id"]), WorkspaceId(row["workspace_id"])
        prover = Principal(PrincipalId(row["id"]), PrincipalKind.SYSTEM, organization, workspace)
        named = format_id("gate", row["id"])
        try:
            async with self._store.transaction(Scope(organization, workspace, prover)) as tx:
                gate = await find_gate(tx, named)
                is_due = await self._is_due(tx, gate)
                if is_due:
                    await self._gates.controls(tx, named, None)
                armed[gate.mode] = armed.get(gate.mode, 0) + (not await self._gates.disarmed(tx, gate))
                if gate.mode == "required":
                    known = await tx.fetch(SQL.controls_of, tx.scope.organization_id, gate.id, gate.policy_digest)
                    ages_us += [self._clock.now_us() - each["at_us"] for each in known]
        except InterlockError as error:
            # One tenant's gate must not keep the others from being proved; it disarms by its age.
            _log.warning("controls_not_run", gate=named, code=error.code)
            return False
        return is_due

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
