"""What outlives a leader of a pool: how fast its engines are, how long answers get, who asked for how much.

Keeps neither queue nor grants: edges hold both.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from interlock.scheduler.domain.promises import PromiseOrder

if TYPE_CHECKING:
    from interlock.scheduler.domain.policy import Policy

NODES_MAX: Final = 500


def kept_of(policy: "Policy") -> dict[str, Any]:
    """Return a checkpoint of some kilobytes."""
    nodes: list[list[Any]] = []
    if isinstance(policy.order, PromiseOrder):
        nodes = policy.order.shares.dump()[:NODES_MAX]
    return {
        "capacity": policy.rates.capacity,
        "measured_us": policy.rates.measured_us,
        "rho": {each.state.engine_id: each.rho for each in policy.fleet.sorted()},
        "tpot_ms": {each.state.engine_id: each.tpot_ms.value for each in policy.fleet.sorted() if each.tpot_ms.value},
        "lengths": policy.lengths.dump(),
        "nodes": nodes,
    }


def recall_into(policy: "Policy", now_us: int, kept: Mapping[str, Any]) -> None:
    """Take a checkpoint; engines that are not there any more are left out."""
    policy.rates.capacity = float(kept.get("capacity") or policy.rates.capacity)
    policy.rates.measured_us = int(kept.get("measured_us", 0))
    for engine_id, rho in kept.get("rho", {}).items():
        if engine_id in policy.fleet.replicas:
            policy.fleet.replicas[engine_id].rho = max(1.0, float(rho))
    for engine_id, tpot_ms in kept.get("tpot_ms", {}).items():
        if engine_id in policy.fleet.replicas:
            policy.fleet.replicas[engine_id].tpot_ms.add(float(tpot_ms))
    policy.lengths.load(kept.get("lengths", {}))
    if isinstance(policy.order, PromiseOrder):
        policy.order.shares.load(now_us, kept.get("nodes", []))
