"""The refusals of a pool: code, status, when to come back, and the figures behind it.

Does not know wall time: the host adds `retry_at`.
"""

from typing import Any, Final

from interlock.contracts.scheduling import GrantRequest, Refused
from interlock.foundation.errors import ERRORS

RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 30.0


def refusal(code: str, request: GrantRequest, figures: dict[str, Any], drain_s: float | None = None) -> Refused:
    """Return the refusal `code`; `drain_s` is how long the work ahead should take, where that is known."""
    spec = ERRORS[code]
    retry_after_s = spec.retry_after_s
    if retry_after_s is not None and spec.http_status == 429 and drain_s is not None:
        retry_after_s = round(min(RETRY_S_MAX, max(RETRY_S_MIN, drain_s)), 3)
    detail = {"rule": code, "pool": request.pool, "class": request.service_class.value, **figures}
    return Refused(code, spec.http_status, retry_after_s, spec.message, detail)
