"""The required gates of what is the platform's own, such as a pool of engines: asked by whoever changes it.

Signs nothing and moves nothing. A gate on `pool:NAME` is the platform operators' to make; `gates.py` sees to that.
"""

from collections.abc import Sequence
from typing import Any

from interlock.contracts.gates import Admitted, GateBlocked, TokenRefused, TokenUse, VerdictVerifier, VerifyingKeys
from interlock.evals.domain.rollout_gate import Blocked, RolloutGate
from interlock.evals.store import SQL
from interlock.foundation.clock import Clock
from interlock.foundation.errors import ERRORS
from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId
from interlock.foundation.scope import Principal, PrincipalKind, Scope
from interlock.foundation.store import Store


class PlatformGates:
    """`contracts.gates.RequiredGates` over the store."""

    def __init__(
        self, store: Store, gate: RolloutGate, verifier: VerdictVerifier, verifying: VerifyingKeys, clock: Clock
    ) -> None:
        self._store = store
        self._gate = gate
        self._verifier = verifier
        self._verifying = verifying
        self._clock = clock

    async def admit(self, guarded: str, subject: str) -> Sequence[Admitted] | GateBlocked:
        """Return what each gate admits; the first that does not admit blocks."""
        async with self._store.ops("required gates of the platform's own") as tx:
            found = await tx.fetch(SQL.required_gates_anywhere, guarded)
        admitted = []
        for row in found:
            answer = await self._asked(row, guarded, subject)
            if isinstance(answer, GateBlocked):
                return answer
            admitted.append(answer)
        return admitted

    async def _asked(self, row: Any, guarded: str, subject: str) -> Admitted | GateBlocked:
        organization, workspace = OrganizationId(row["organization_id"]), WorkspaceId(row["workspace_id"])
        asker = Principal(PrincipalId(row["id"]), PrincipalKind.SYSTEM, organization, workspace)
        scope = Scope(organization, workspace, asker)
        live = await self._gate.live(scope, guarded, subject)
        if isinstance(live, Blocked):
            return GateBlocked(live.reasons)
        token = await self._gate.token(scope, guarded, live, live.max_weight)
        if isinstance(token, Blocked):
            return GateBlocked(token.reasons)
        use = TokenUse(organization, guarded, subject, live.max_weight, self._clock.now_us())
        answer = self._verifier.verify(token, use, await self._verifying.load())
        if isinstance(answer, TokenRefused):
            return GateBlocked(({"code": answer.code, "text": ERRORS[answer.code].message},))
        return answer
