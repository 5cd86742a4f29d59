"""The decisions about a URL: which step said what, by which rule, with which numbers.

Stores nothing; a visit collects, the ack writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

STEPS: Final = (
    "discovered", "canonical", "scope", "robots", "budget", "trap", "queued", "host_wait", "leased", "egress", "dial",
    "response", "signals", "dedupe", "extract", "offered", "delivered", "next_visit", "withdrawn", "purged",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """One step; `detail` holds numbers, names and short texts only."""

    step: str
    verdict: str
    rule: str
    detail: Mapping[str, Any] = field(default_factory=dict)
