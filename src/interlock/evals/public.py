"""What pages read of evals: suites, runs, gates, incidents and rollouts. Loaded only where pages are served.

Holds nothing of its own.
"""

from interlock.evals.service.gates import Gates
from interlock.evals.service.incidents import Incidents, severity_of
from interlock.evals.service.rollouts import Rollouts
from interlock.evals.service.runs import Runs
from interlock.evals.service.suites import Suites

__all__ = ["Gates", "Incidents", "Rollouts", "Runs", "Suites", "severity_of"]
