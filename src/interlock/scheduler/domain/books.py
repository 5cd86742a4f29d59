"""What grants came to: charges, objectives met, waste, and the counters of a pool.

Prices nothing; `cost.py` splits the time of an engine.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from interlock.contracts.scheduling import GrantRequest, Settled, Settlement, SettleOutcome
from interlock.scheduler.domain.cost import dollars
from interlock.scheduler.domain.replicas import Running
from interlock.scheduler.domain.share import Path
from interlock.scheduler.domain.types import ClassObjective, PoolRules

# An output token costs a decode step, about twice what a prefilled one does; the weight is scheduler.md, section 6.2.
OUTPUT_WEIGHT: Final = 2
OVERRUN_SHARE: Final = 1.10


@dataclass(slots=True)
class Books:
    """Counters of one pool since the start of the process."""

    rules: PoolRules
    arrived: int = 0
    grants: int = 0
    settled: int = 0
    in_slo: int = 0
    lost: int = 0
    canceled: int = 0
    displaced: int = 0
    cached_tokens: int = 0
    input_tokens: int = 0
    settle_mismatch: int = 0
    engine_overrun: int = 0
    wasted_tokens: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def settle(self, running: Running, settlement: Settlement, cost_usd: float) -> Settled:
        """Charge what was used; the larger of the settled and the reported output counts."""
        output_tokens = settlement.output_tokens
        if output_tokens < running.output_tokens:
            self.settle_mismatch += 1
            output_tokens = running.output_tokens
        if output_tokens > running.request.max_tokens * OVERRUN_SHARE:
            self.engine_overrun += 1
        uncached_tokens = max(0, settlement.input_tokens - settlement.cached_input_tokens)
        charged = 0
        if settlement.outcome is not SettleOutcome.UNUSED:
            charged = uncached_tokens + OUTPUT_WEIGHT * output_tokens
        is_in_slo = self._is_in_slo(running, settlement, output_tokens)
        wasted = 0 if is_in_slo or not charged else uncached_tokens + output_tokens
        self.settled += 1
        self.in_slo += is_in_slo
        self.wasted_tokens += wasted
        reserved = running.request.input_tokens + OUTPUT_WEIGHT * running.request.max_tokens
        self.input_tokens += settlement.input_tokens
        self.cached_tokens += settlement.cached_input_tokens
        return Settled(is_in_slo, charged, max(0, reserved - charged), dollars(cost_usd), wasted)

    def lose(self, running: Running) -> None:
        """Write off a grant whose lease ran out."""
        self.lost += 1
        self.wasted_tokens += running.request.input_tokens + running.output_tokens

    def _is_in_slo(self, running: Running, settlement: Settlement, output_tokens: int) -> bool:
        if settlement.outcome is not SettleOutcome.OK:
            return False
        objective = objective_of(self.rules, running.request)
        waited_ms = running.waited_us // 1_000
        if settlement.ttft_ms is None:
            # Nobody saw the first token of an answer that came whole: it may take what a stream of its length may.
            allowed_ms = objective.ttft_ms + (objective.tpot_ms or 0) * max(0, output_tokens - 1)
            return objective.tpot_ms is None or waited_ms + settlement.total_ms <= allowed_ms
        if waited_ms + settlement.ttft_ms > objective.ttft_ms:
            return False
        tpot_ms = time_per_output_token_ms(settlement, output_tokens)
        return objective.tpot_ms is None or tpot_ms is None or tpot_ms <= objective.tpot_ms


def objective_of(rules: PoolRules, request: GrantRequest) -> ClassObjective:
    """Return the objective of a request: that of its class, which `ttft_ms` may only tighten."""
    objective = rules.objectives[request.service_class]
    if request.ttft_ms is None:
        return objective
    return ClassObjective(min(objective.ttft_ms, request.ttft_ms), objective.tpot_ms)


def time_per_output_token_ms(settlement: Settlement, output_tokens: int) -> float | None:
    """Return the mean time between output tokens; None where there are fewer than two."""
    if settlement.ttft_ms is None or output_tokens < 2:
        return None
    return max(0, settlement.total_ms - settlement.ttft_ms) / (output_tokens - 1)


def path_of(request: GrantRequest) -> Path:
    """Return the place of a request's tenant in the tree of shares."""
    path = (str(request.organization_id), str(request.workspace_id))
    return path if request.key_id is None else (*path, str(request.key_id))
