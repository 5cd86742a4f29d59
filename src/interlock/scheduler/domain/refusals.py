"""The refusals of a pool: code, status, when to come back, and the figures behind it.

Does not know wall time: the host adds `retry_at`.
"""

from dataclasses import dataclass
from typing import Any, Final

from interlock.contracts.scheduling import GrantRequest, Refused
from interlock.foundation.errors import ERRORS
from interlock.scheduler.domain.share import Standing

RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a refusal shows: of the pool what concerns the caller, of other tenants nothing."""

    predicted_ttft_ms: int | None
    ttft_slo_ms: int
    queued: int
    standing: Standing | None
    fits_classes: tuple[str, ...] = ()
    fits_max_tokens: int | None = None
    predicted_tpot_ms: int | None = None
    tpot_slo_ms: int | None = None


def refusal(code: str, request: GrantRequest, figures: Figures, retry_after_s: float | None = None) -> Refused:
    """Return the refusal `code`; without a time of its own it has that of its kind."""
    spec = ERRORS[code]
    again_s = None if spec.retry_after_s is None else retry_after_s or spec.retry_after_s
    fits: dict[str, Any] = {"classes": list(figures.fits_classes)}
    if figures.fits_max_tokens is not None:
        fits["max_tokens"] = figures.fits_max_tokens
    detail = {
        "rule": code,
        "pool": request.pool,
        "class": request.service_class.value,
        "predicted_ttft_ms": figures.predicted_ttft_ms,
        "ttft_slo_ms": figures.ttft_slo_ms,
        "predicted_tpot_ms": figures.predicted_tpot_ms,
        "tpot_slo_ms": figures.tpot_slo_ms,
        "queued": figures.queued,
        "tenant": standing_view(figures.standing),
        "fits": fits,
    }
    return Refused(code, spec.http_status, again_s, spec.message, detail)


def standing_view(standing: Standing | None) -> dict[str, Any] | None:
    """Return a standing as the API shows it."""
    if standing is None:
        return None
    return {
        "demand_tps": round(standing.demand_tps, 1),
        "share_tps": round(standing.share_tps, 1),
        "over_share": standing.is_over_share,
        "debt_tokens": round(standing.debt_tokens),
    }
