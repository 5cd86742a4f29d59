"""What a pool's policy has to show before it decides for somebody: the gates of `pool:NAME`, and its own canary.

Judges nothing itself: verdicts are the gates', counts are the leader's. Where no gate is required everybody may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from interlock.contracts.gates import Admitted, GateBlocked, RequiredGates
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.arms import FALL_MAX
from interlock.scheduler.domain.versions import Candidate, PoolSettings, artifact_digest

_PERCENT_BP: Final = 100
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What is asked for: these settings of a pool for a share of its workspaces, as the try of a number, if any."""

    action: str
    pool: str
    settings: PoolSettings
    share_bp: int
    number: int | None = None


class Leader(Protocol):
    """The figures of the scheduler that leads a pool."""

    async def view(self, name: str, part: str = "") -> dict[str, Any]:
        """Return a part of them. Raises `no_capacity`."""
        ...


class PolicyGate:
    """Asked before a candidate is widened or promoted, and before a policy is set by hand."""

    def __init__(
        self, gates: RequiredGates, leader: Leader, store: Store, audit: AuditLog, config: SchedulerConfig
    ) -> None:
        self._gates = gates
        self._leader = leader
        self._store = store
        self._audit = audit
        self._config = config

    async def admit(self, scope: Scope, step: Step) -> tuple[str, ...]:
        """Return the verdicts that admit a step; none where no gate is required.

        Raises `gate_blocked`, and `verdict_weight_exceeded` for a share beyond the first that has not been tried.
        """
        digest = artifact_digest(step.pool, step.settings)
        found = await self._gates.admit(guarded(step.pool), digest)
        if isinstance(found, GateBlocked):
            reasons = [dict(each) for each in found.reasons]
            raise await self._refused(scope, step, "gate_blocked", {"artifact_digest": digest, "reasons": reasons})
        first_bp = _first_share_bp(found)
        if step.share_bp > first_bp:
            missing = await self._missing(step)
            if missing is not None:
                detail = {"artifact_digest": digest, "first_share_bp": first_bp, **missing}
                raise await self._refused(scope, step, "verdict_weight_exceeded", detail)
        return tuple(each.verdict_id for each in found)

    async def stands(self, pool: str, digest: str) -> dict[str, Any]:
        """Return how the gates of a pool stand to settings of that digest: required or not, admitted or why not."""
        found = await self._gates.admit(guarded(pool), digest)
        if isinstance(found, GateBlocked):
            reasons = [dict(each) for each in found.reasons]
            return {"required": True, "admits": False, "verdict_ids": [], "first_share_bp": None, "reasons": reasons}
        first_bp = _first_share_bp(found)
        verdicts = [each.verdict_id for each in found]
        return {
            "required": bool(found), "admits": True, "verdict_ids": verdicts, "first_share_bp": first_bp, "reasons": [],
        }  # fmt: skip

    async def _missing(self, step: Step) -> dict[str, Any] | None:
        """Return what the canary has not shown yet; None where it kept its promises for long enough."""
        wanted = self._config.gate_judged_min
        if step.number is None:
            return {"judged": 0, "judged_min": wanted, "why": "it is set by hand and was not tried"}
        try:
            seen = await self._leader.view(step.pool, "candidate")
        except InterlockError:
            return {"judged": 0, "judged_min": wanted, "why": "its leader does not answer"}
        arms = seen.get("canary") if seen["number"] == step.number else None
        if arms is None or not seen["is_running"]:
            return {"judged": 0, "judged_min": wanted, "why": "it decides for nobody yet"}
        live, own = arms["live"], arms["candidate"]
        if own["judged"] < wanted or not arms["looks"]:
            why = f"{own['judged']} of its requests are judged after {arms['looks']} looks"
            return {"judged": own["judged"], "judged_min": wanted, "why": why}
        fall = 0.0 if live["accepted_attainment"] is None else live["accepted_attainment"] - own["accepted_attainment"]
        if fall >= FALL_MAX:
            return {"judged": own["judged"], "judged_min": wanted, "why": f"it keeps {fall:.4f} less than the live one"}
        return None

    async def _refused(self, scope: Scope, step: Step, code: str, detail: dict[str, Any]) -> InterlockError:
        """Audit a refusal in a transaction of its own: the call's is not going to be."""
        told = {"share_bp": step.share_bp, "code": code, "artifact_digest": detail["artifact_digest"]}
        async with self._store.transaction(scope) as tx:
            entry = AuditEntry(step.action, "pool", step.pool, outcome="refused", reason=code, detail=told)
            await self._audit.append(tx, entry)
        return InterlockError(code, _words(code, detail), detail=detail)


async def blocked_canaries(
    gates: RequiredGates, candidates: Mapping[str, Candidate]
) -> list[tuple[str, int, dict[str, Any]]]:
    """Return the canaries that a required gate no longer admits: pool, number and why."""
    found = []
    for pool, candidate in candidates.items():
        if candidate.share_bp is None:
            continue
        answer = await gates.admit(guarded(pool), artifact_digest(pool, candidate.settings))
        if isinstance(answer, GateBlocked):
            reasons = [dict(each) for each in answer.reasons]
            _log.warning("candidate.gate_blocked", pool=pool, number=candidate.number, reasons=reasons)
            found.append((pool, candidate.number, {"reason": "its gate does not admit it any more", "gate": reasons}))
    return found


def guarded(pool: str) -> str:
    """Return the name under which gates guard a pool."""
    return f"pool:{pool}"


def _first_share_bp(admitted: Sequence[Admitted]) -> int:
    """Return the share that verdicts admit before a canary has shown anything; all of it where none is asked."""
    return round(min((each.max_weight for each in admitted), default=100.0) * _PERCENT_BP)


def _words(code: str, detail: Mapping[str, Any]) -> str:
    if code == "gate_blocked":
        why = "; ".join(str(each["text"]) for each in detail["reasons"])
        return f"A required gate does not admit this policy: {why}"
    share = detail["first_share_bp"] / _PERCENT_BP
    return f"The verdict admits {share:g} % of the workspaces until a canary has shown more: {detail['why']}."
