"""What pages read of agents: tasks, their steps, and what people do to them. Loaded only where pages are served.

Holds nothing of its own.
"""

from interlock.agents.domain.journal import Step
from interlock.agents.domain.states import TaskState
from interlock.agents.service.control import Branching, ControlService, Verdict
from interlock.agents.service.reading import Filters, ReadingService, step_json, task_json
from interlock.agents.store.rows import Task

__all__ = [
    "Branching", "ControlService", "Filters", "ReadingService", "Step", "Task", "TaskState", "Verdict", "step_json",
    "task_json",
]  # fmt: skip
