"""Bounds of the control calls: bodies, lists, idempotency, rates.

Reads nothing by itself; `foundation.config.load` fills it as section `control`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Section `control`."""

    json_depth_max: int = setting(64, "Deepest nesting of a JSON body, levels.", minimum=8, maximum=512)
    body_idle_s: float = setting(30.0, "Longest wait for the next piece of a body, seconds.", minimum=0.1, maximum=600)
    list_limit: int = setting(50, "Objects of a list when the caller names no limit.", minimum=1, maximum=200)
    list_limit_max: int = setting(200, "Most objects of one page of a list.", minimum=1, maximum=1_000)
    cursor_bytes_max: int = setting(2_048, "Longest cursor that is looked at, bytes.", minimum=128, maximum=16_384)
    idempotency_wait_ms: int = setting(
        1_000, "How long a twin of a running call waits for its reply, milliseconds.", minimum=0, maximum=10_000
    )
    idempotency_ttl_s: int = setting(
        86_400, "How long the reply of a call with an Idempotency-Key is kept, seconds.", minimum=60, maximum=2_592_000
    )
    idempotency_key_chars_max: int = setting(255, "Longest Idempotency-Key, characters.", minimum=1, maximum=255)
    mutations_per_s: int = setting(
        200, "Mutations of one organization a second and process; also the burst.", minimum=1, maximum=100_000
    )
    rate_organizations_max: int = setting(
        10_000, "Organizations whose rate is remembered; the longest idle one goes first.", minimum=1, maximum=1_000_000
    )
    refusals_audited_per_s: int = setting(
        20, "Refused administrative calls of one organization that are audited a second.", minimum=1, maximum=10_000
    )
