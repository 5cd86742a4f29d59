"""Rolled-back versions where nobody keeps incidents yet: a line in the log, under an id of its own.

Opens no incident; a sink that does takes its place.
"""

import structlog

from interlock.contracts.incidents import IncidentReport, Opened
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import Scope

log = structlog.get_logger("interlock.evals")


class LoggedReports:
    """`contracts.incidents.IncidentSink` over the log."""

    def __init__(self, ids: IdFactory) -> None:
        self._ids = ids

    async def report(self, _scope: Scope, report: IncidentReport) -> Opened:
        """Write the report down."""
        incident = format_id("inc", self._ids.new())
        log.warning("incident", incident=incident, title=report.title, detector=report.detector, route=report.route)
        return Opened(incident, "open")
