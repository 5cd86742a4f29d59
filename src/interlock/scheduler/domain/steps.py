"""The steps of a grant as the request's story tells them (scheduler.md, section 9).

Does not write them: they travel with the grant, and the edge puts them into its record.
"""

from typing import Any, Final

from interlock.contracts.scheduling import GrantRequest
from interlock.scheduler.domain.types import Grant, Queued

# Nothing displaces a request that was given a seat in arrival order.
PROMISE: Final = "final"
POLICY: Final = "arrival_order"


def arrival_steps(request: GrantRequest, queued: Queued) -> list[dict[str, Any]]:
    """Return the steps of a seat for the request's story; a figure that is not known is left out."""
    means = {"ttft_ms": queued.predicted.ttft_ms, "tpot_ms": queued.predicted.tpot_ms}
    known = {name: value for name, value in means.items() if value is not None}
    return [
        {
            "step": "arrived",
            "position": queued.position,
            "class": request.service_class.value,
            "input_tokens": request.input_tokens,
            "max_tokens": request.max_tokens,
        },
        {"step": "predicted", "basis": "engine_mean" if known else "no_samples", **known},
        {"step": "queued", "policy": POLICY, "promise": PROMISE},
    ]


def granted_step(grant: Grant) -> dict[str, Any]:
    """Return the step of a grant."""
    return {
        "step": "granted",
        "engine": grant.engine.engine_id,
        "reason": "fewest_running",
        "queue_wait_ms": grant.queue_wait_ms,
    }
