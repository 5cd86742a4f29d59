"""The steps of a grant as the request's story tells them (scheduler.md, section 9).

Does not write them: they travel with the answer, and the edge puts them into its record.
"""

from typing import Any

from interlock.contracts.scheduling import GrantRequest, Predicted, Refused
from interlock.scheduler.domain.share import Standing
from interlock.scheduler.domain.types import Grant, Queued, Steps


def queued_steps(request: GrantRequest, queued: Queued) -> Steps:
    """Return the steps of a seat; a figure that is not known is left out."""
    predicted = _predicted_step(queued.predicted) | {"margin_ms": queued.margin_ms}
    seat = {"step": "queued", "tier": queued.tier, "promise": queued.promise}
    return [_arrived_step(request, queued.position, queued.standing), predicted, seat]


def refused_steps(request: GrantRequest, refused: Refused, standing: Standing | None) -> Steps:
    """Return the steps of a refusal at arrival."""
    detail = refused.detail
    predicted = Predicted(detail.get("predicted_ttft_ms"), detail.get("predicted_tpot_ms"), None, None)
    arrived = _arrived_step(request, detail.get("queued", 0) + 1, standing)
    return [arrived, _predicted_step(predicted), ended_step(refused)]


def ended_step(refused: Refused) -> dict[str, Any]:
    """Return the step of a refusal, or of a seat that gave way."""
    detail = refused.detail
    step = "displaced" if refused.code == "displaced" else "refused"
    figures = {"ttft_slo_ms": detail.get("ttft_slo_ms"), "queued": detail.get("queued")}
    if detail.get("predicted_tpot_ms") is not None:
        figures["tpot_slo_ms"] = detail.get("tpot_slo_ms")
    return {"step": step, "code": refused.code, **_known(figures), "retry_after_s": refused.retry_after_s}


def granted_step(grant: Grant) -> dict[str, Any]:
    """Return the step of a grant."""
    return {
        "step": "granted",
        "engine": grant.engine.engine_id,
        "reason": grant.reason,
        "cached": grant.predicted.cached_input_tokens or 0,
        "queue_wait_ms": grant.queue_wait_ms,
    }


def _arrived_step(request: GrantRequest, position: int, standing: Standing | None) -> dict[str, Any]:
    step: dict[str, Any] = {"step": "arrived", "position": position, "class": request.service_class.value}
    if standing is not None:
        step |= {
            "demand": round(standing.demand_tps, 1),
            "share": round(standing.share_tps, 1),
            "over_share": standing.is_over_share,
        }
    return step | {"input_tokens": request.input_tokens, "max_tokens": request.max_tokens}


def _predicted_step(predicted: Predicted) -> dict[str, Any]:
    figures = {"ttft_ms": predicted.ttft_ms, "tpot_ms": predicted.tpot_ms, "output": predicted.output_tokens}
    return {"step": "predicted", **_known(figures)}


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if value is not None}
