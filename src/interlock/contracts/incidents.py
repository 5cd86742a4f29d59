"""Incidents: how a system reports that something must never happen again.

Given by evals, used by gateway, retrieval, agents and crawler.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from interlock.foundation.scope import Scope


class Severity(StrEnum):
    """From `sev1`, act now, to `sev4`, know about it."""

    SEV1 = "sev1"
    SEV2 = "sev2"
    SEV3 = "sev3"
    SEV4 = "sev4"


@dataclass(frozen=True, slots=True)
class IncidentReport:
    """What happened. `source` is the reporting system, `detector` the rule in it, `taxonomy` an OWASP-LLM or own id.

    `text` is redacted by the receiver before it is stored; `evidence` holds numbers and ids only.
    """

    title: str
    severity: Severity
    source: str
    detector: str
    taxonomy: str | None = None
    request_id: str | None = None
    artifact_digest: str | None = None
    route: str | None = None
    text: str | None = None
    evidence: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A new incident, or one that was closed and is open again."""

    incident_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The incident was known; its occurrences went up by one."""

    incident_id: str


class IncidentSink(Protocol):
    """Commits by itself; never raises for a report that is merely odd."""

    async def report(self, scope: Scope, report: IncidentReport) -> Opened | Deduplicated:
        """Record a report."""
        ...
