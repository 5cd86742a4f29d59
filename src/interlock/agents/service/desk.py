"""What one leg works with: the task, its journal so far, its place, its rules and what is left of its budget.

Decides nothing by itself; `leg.py` does, step by step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from interlock.agents.config import AgentsConfig
from interlock.agents.domain.budget import Budget, Measure
from interlock.agents.domain.journal import Step, StepStatus
from interlock.agents.domain.policy import World
from interlock.agents.domain.ports import Sandbox, Tools, Trees
from interlock.agents.domain.types import KillProof, Place, ProcessRecord
from interlock.agents.metrics import TaskMetrics
from interlock.agents.store.journal import Journal, Outcome
from interlock.agents.store.rows import Input, Task
from interlock.contracts.inference import Credential, ModelClient
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.redaction import Redactor

# Answers whether a switch stops a task, or one tool: `(task, tool or None)`.
Stops = Callable[[Task, str | None], bool]


@dataclass(frozen=True, slots=True)
class LegParts:
    """What all legs of a worker share."""

    journal: Journal
    trees: Trees
    tools: Tools
    sandbox: Sandbox
    models: ModelClient
    clock: Clock
    dice: Dice
    stops: Stops
    host_id: str
    config: AgentsConfig
    metrics: TaskMetrics


@dataclass(slots=True)
class Desk:
    """The state of one leg in memory; rows are the truth and are written first."""

    parts: LegParts
    task: Task
    token: int
    place: Place
    world: World
    input: Input
    redactor: Redactor
    secrets: Mapping[str, str] = field(repr=False)
    steps: list[Step] = field(default_factory=list)
    tree: str = ""
    commit: str = ""
    budget: Budget | None = None
    credential: Credential | None = None
    records: list[ProcessRecord] = field(default_factory=list)
    proofs: list[KillProof] = field(default_factory=list)
    recording: str | None = None
    taken: int = 0

    @property
    def left(self) -> Budget:
        """What is left of the budget."""
        return self.budget or self.task.budget

    @property
    def next_seq(self) -> int:
        """The number of the next step."""
        return self.steps[-1].seq + 1 if self.steps else 1

    @property
    def deadline_left_s(self) -> float:
        """Seconds until the deadline."""
        left_us: int = self.task.row["deadline_us"] - self.parts.clock.now_us()
        return max(0.0, left_us / 1e6)

    async def begin(self, step: Step, events: Any = ()) -> Step:
        """Write an intent, then remember it."""
        await self.parts.journal.begin(self.task, self.token, step, events)
        self._reserved(step.tokens_reserved)
        self.steps.append(step)
        return step

    async def reopen(self, step: Step) -> Step:
        """Take over an intent of an earlier attempt."""
        await self.parts.journal.reopen(self.task, self.token, step.seq)
        taken = replace(step, attempt=self.token, started_us=self.parts.clock.now_us())
        self.steps[-1] = taken
        return taken

    async def end(self, step: Step, outcome: Outcome) -> Step:
        """Write an outcome, then remember it."""
        await self.parts.journal.end(self.task, self.token, step, outcome)
        self.taken += 1
        self.parts.metrics.ended(step, outcome)
        self.tree = outcome.tree or self.tree
        self.commit = outcome.commit or self.commit
        self._settled(step, outcome)
        ended = replace(
            step,
            status=outcome.status,
            result=outcome.result,
            error=outcome.error,
            tree_after=outcome.tree,
            commit=outcome.commit,
            changed=outcome.changed,
            checkpoint=outcome.checkpoint,
            request_id=outcome.request_id,
            ms=outcome.ms,
        )
        self.steps[-1] = ended
        return ended

    def _reserved(self, tokens: int) -> None:
        now = self.left
        self.budget = replace(now, tokens=replace(now.tokens, reserved=now.tokens.reserved + tokens))

    def _settled(self, step: Step, outcome: Outcome) -> None:
        now = self.left
        is_counted = outcome.status is not StepStatus.ABORTED
        tokens = Measure(now.tokens.limit, now.tokens.used + outcome.tokens, now.tokens.reserved - step.tokens_reserved)
        self.budget = Budget(
            tokens,
            replace(now.usd_micros, used=now.usd_micros.used + outcome.usd_micros),
            replace(now.steps, used=now.steps.used + is_counted),
            replace(now.tool_ms, used=now.tool_ms.used + outcome.tool_ms),
        )
