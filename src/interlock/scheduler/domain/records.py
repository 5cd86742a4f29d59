"""One request as it is remembered: what was predicted, what happened, what it cost, and the steps between.

Writes nothing; the recorder of the service does.
"""

from dataclasses import dataclass
from typing import Any

from interlock.contracts.scheduling import GrantRequest
from interlock.scheduler.domain.share import Standing


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A request that ended. `outcome` is that of its settlement, or `refused`, `canceled`, `lost`.

    Times are milliseconds from the arrival; a figure that was never known is None.
    """

    request: GrantRequest
    outcome: str
    at_us: int
    engine_id: str | None = None
    code: str | None = None
    promise: str | None = None
    queue_wait_ms: int | None = None
    predicted_ttft_ms: int | None = None
    predicted_tpot_ms: int | None = None
    predicted_output_tokens: int | None = None
    ttft_ms: int | None = None
    tpot_ms: float | None = None
    total_ms: int | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    charged_tokens: int = 0
    wasted_tokens: int = 0
    cost_usd: float = 0.0
    is_in_slo: bool = False
    standing: Standing | None = None
    steps: tuple[dict[str, Any], ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether it never got an engine because the pool said no."""
        return self.outcome == "refused"
