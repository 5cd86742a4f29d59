"""Tasks over several workers that crash, stall and lose their leases, with cancels at any moment: the shipped loop.

The steps, the crash rules, the rules of calls and the ends are the code that ships (`Leg`); twins stand for the
statements of the journal, the leases, the tree, the tools and the model. What is simulated is one machine: a working
copy outlives the worker that left it half done.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from uuid import UUID

from prometheus_client import CollectorRegistry

from interlock.agents.config import AgentsConfig
from interlock.agents.domain import adversary
from interlock.agents.domain.journal import StepKind, StepStatus
from interlock.agents.domain.policy import CODE, World
from interlock.agents.domain.states import FINAL, TRANSITIONS, TaskState
from interlock.agents.domain.transcripts import read_transcript
from interlock.agents.domain.types import (
    Change,
    KillProof,
    Patch,
    SandboxRun,
    Slot,
    Snapshot,
    ToolResult,
    TreeDiff,
)
from interlock.agents.metrics import TaskMetrics
from interlock.agents.service.desk import Desk, LegParts
from interlock.agents.service.leg import Leg
from interlock.agents.service.prepare import redactor_of
from interlock.agents.store.journal import Ending
from interlock.agents.store.rows import Check, Input, task_of
from interlock.contracts.inference import ChatAnswer, Credential, ToolCall
from interlock.foundation.leases import Fence, LeaseLostError, LeaseSpec, LeaseWorker
from interlock.foundation.scope import PrincipalKind
from interlock.foundation.sim import Nemesis, SimClock, SimDice, SimProcess
from interlock.foundation.sim.leases import CrashableLeases, LeaseTwin, Row, Share
from interlock.foundation.telemetry import Metrics

SPEC = LeaseSpec("agents_tasks", "agents_shares", ttl_s=3.0, attempts_max=1_000)
TENANTS, TASKS, WORKERS = 2, 3, 3
TROUBLE_S, DONE_WITHIN_S, WATCH_S = 25.0, 600.0, 0.5
EMPTY: tuple[str, ...] = ()


@dataclass
class Kept:
    """One task as its rows would hold it."""

    row: dict
    steps: list = field(default_factory=list)
    states: list = field(default_factory=lambda: [TaskState.QUEUED])
    writers: list = field(default_factory=list)

    @property
    def state(self) -> TaskState:
        return self.states[-1]

    @property
    def script(self) -> tuple[str, ...]:
        return tuple(each["args"]["command"] for each in json.loads(self.row["goal"].removeprefix("script:")))


@dataclass
class Machine:
    """What workers share: rows, trees by name, working copies on the disk. `is_restored` off is the planted bug."""

    clock: SimClock
    leases: LeaseTwin
    is_restored: bool
    tasks: dict[UUID, Kept] = field(default_factory=dict)
    disk: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trees: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"base": EMPTY})


@dataclass
class JournalTwin:
    """The statements of the journal: each one transaction, under the fence, refused once a cancel was asked for."""

    machine: Machine
    process: SimProcess
    config: AgentsConfig
    artifacts: object

    async def steps(self, _scope, task):
        return list(self.machine.tasks[task.id].steps)

    async def start(self, task, token):
        kept = await self._held(task, token, {TaskState.QUEUED, TaskState.RUNNING})
        if kept.state is TaskState.QUEUED:
            self._moved(kept, TaskState.RUNNING)

    async def begin(self, task, token, step, _events=()):
        kept = await self._held(task, token, {TaskState.RUNNING}, is_new=True)
        assert step.seq == len(kept.steps) + 1, "a gap in the journal"
        kept.steps.append(step)
        await self.process.point()

    async def reopen(self, task, token, seq):
        kept = await self._held(task, token, {TaskState.RUNNING}, is_new=True)
        assert kept.steps[seq - 1].status is StepStatus.INTENT, "a finished step was begun again"
        kept.steps[seq - 1] = replace(kept.steps[seq - 1], attempt=token)
        await self.process.point()

    async def end(self, task, token, step, outcome):
        kept = await self._held(task, token, {TaskState.RUNNING})
        assert kept.steps[step.seq - 1].status is StepStatus.INTENT, "a step ended twice"
        kept.steps[step.seq - 1] = replace(
            step, status=outcome.status, result=outcome.result, error=outcome.error, tree_after=outcome.tree,
            commit=outcome.commit, changed=outcome.changed, checkpoint=outcome.checkpoint,
        )  # fmt: skip
        kept.row |= {"tree": outcome.tree or kept.row["tree"], "commit_id": outcome.commit or kept.row["commit_id"]}
        await self.process.point()

    async def change(self, task, token, before, ending):
        kept = await self._held(task, token, {before})
        if kept.row["cancel_requested_us"] is not None and ending.state is not TaskState.CANCELED:
            return False
        self._moved(kept, ending.state)
        await self.process.point()
        return True

    async def process_started(self, *_):
        await self.process.point()

    async def _held(self, task, token, states, *, is_new=False):
        await self.process.point()
        kept, fence = self.machine.tasks[task.id], Fence(task.id, token)
        is_stopped = is_new and kept.row["cancel_requested_us"] is not None
        if not self.machine.leases.is_current(fence) or kept.state not in states or is_stopped:
            raise LeaseLostError(str(task.id))
        assert not kept.writers or token >= kept.writers[-1], "an old owner wrote"
        kept.writers.append(token)
        return kept

    def _moved(self, kept, state):
        assert state in TRANSITIONS[kept.state], (kept.state, state)
        kept.states.append(state)


class Artifacts:
    """Objects; whatever is put is there."""

    async def put(self, _key, _content):
        return None


@dataclass
class TreesTwin:
    """Trees as tuples of what was done to them; a checkout goes to the disk, which outlives the worker."""

    machine: Machine
    process: SimProcess

    async def restore(self, place, tree):
        await self.process.point()
        if self.machine.is_restored:
            self.machine.disk[str(place.root)] = self.machine.trees[tree]
        await self.process.point()

    async def snapshot(self, place, commit):
        await self.process.point()
        done = self.machine.disk.get(str(place.root), EMPTY)
        tree = f"{place.root} {done}"
        self.machine.trees[tree] = done
        return Snapshot(f"{commit.step} {tree}", tree, TreeDiff((Change("log", "M"),)))

    async def has(self, _place, _commit):
        return True

    async def point(self, *_):
        return None

    async def diff(self, *_):
        return TreeDiff()

    async def patch(self, *_):
        return Patch("", is_cut=False)

    async def bundle(self, *_):
        return b""

    async def export(self, place, _export):
        return place.root

    async def discard(self, *_):
        return None


@dataclass
class ToolsTwin:
    """A command takes time and appends itself to the tree; it can be cut off on either side of that."""

    machine: Machine
    process: SimProcess
    dice: SimDice

    async def execute(self, call, bench):
        if call.name == "run":
            place = str(bench.place.root)
            await self.machine.clock.sleep(self.dice.pick(0.01, 0.1, 0.5))
            await self.process.point()
            done = self.machine.disk.get(place, EMPTY)
            self.machine.disk[place] = (*done, call.arguments["command"])
            await self.process.point()
        return ToolResult("{}")

    async def check(self, _command, _folder, _bench):
        await self.process.point()
        return SandboxRun(0, None, b"", is_cut=False, seconds=0.1, proof=KillProof("namespace_empty"))


@dataclass
class ModelsTwin:
    """The scripts of `adversary`, late by a little."""

    clock: SimClock
    process: SimProcess

    async def lend(self, _scope, *, link, ttl_s, scopes=("inference",), bounds=None):
        return Credential(UUID(int=1), "il_task_x", self.clock.now_us() + round(ttl_s * 1e6), link)

    async def extend(self, _scope, credential, _ttl_s):
        return credential

    async def revoke(self, _scope, _credential):
        return None

    async def chat(self, _credential, call):
        await self.clock.sleep(0.05)
        await self.process.point()
        said = adversary.next_call(read_transcript(call.messages))
        made = sum(message["role"] == "assistant" for message in call.messages)
        tool = ToolCall(f"call_{made}", said.name, json.dumps(dict(said.arguments)))
        return ChatAnswer("req_1", said.text, (tool,), "tool_calls", 10, 10, 1, 1.0)


def add_task(machine: Machine, number: int, each: int, dice: SimDice) -> None:
    key, tenant = UUID(int=number * 1_000 + each), (UUID(int=number), UUID(int=number))
    commands = [{"tool": "run", "args": {"command": f"c{each}-{step}"}} for step in range(dice.randrange(3) + 1)]
    goal = "script:" + json.dumps(commands)
    measures = {f"{name}_{part}": 0 for name in ("tokens", "usd", "steps", "tool_ms") for part in ("used", "reserved")}
    limits = {f"{name}_limit": 10_000_000 for name in ("tokens", "usd", "steps", "tool_ms")}
    row = {
        "organization_id": tenant[0], "workspace_id": tenant[1], "task_id": key, "state": "queued", "goal": goal,
        "request": json.dumps({"goal": goal}), "principal_id": tenant[0], "principal_kind": str(PrincipalKind.USER),
        "key_models": [], "key_class_max": None, "model": "adversary",
        "tree": "base", "commit_id": "base", "base_tree": "base", "base_commit": "base",
        "deadline_us": 1 << 62, "on_budget": "fail", "cancel_requested_us": None, **measures, **limits,
    }  # fmt: skip
    machine.tasks[key] = Kept(row)
    machine.leases.rows[key] = Row(tenant, key, priority=dice.randrange(2))
    machine.leases.shares.setdefault(tenant, Share(running_max=2))


def boot(machine: Machine, dice: SimDice, number: int):
    async def life(process: SimProcess) -> None:
        clock, config = machine.clock, AgentsConfig()
        journal = JournalTwin(machine, process, config, Artifacts())
        sandbox, metrics = SimpleNamespace(report=None), TaskMetrics(Metrics(CollectorRegistry()))
        parts = LegParts(
            journal, TreesTwin(machine, process), ToolsTwin(machine, process, dice), sandbox,
            ModelsTwin(clock, process), clock, dice, lambda _task, _tool: False, "here", config, metrics,
        )  # fmt: skip

        async def work(lease) -> float | None:
            kept = machine.tasks[lease.key]
            if kept.state in FINAL:
                return None
            task = task_of(kept.row)
            await journal.start(task, lease.token)
            await leg_of(parts, task, lease.token, kept)
            return None if kept.state in FINAL else 0.0

        store = CrashableLeases(machine.leases, process)
        await LeaseWorker(SPEC, store, work, clock, f"worker-{number}", slots=2).run()

    return life


async def leg_of(parts: LegParts, task, token: int, kept: Kept) -> None:
    """Run one leg as the worker does: watched for a cancel, ended by what it was stopped for."""
    place = SimpleNamespace(root=str(task.id), slot=Slot(0, 0, 0))
    given = Input("files", {}, b"", Check("true"))
    desk = Desk(parts, task, token, place, World((CODE,)), given, redactor_of({}), {})
    desk.steps, desk.tree, desk.commit = list(kept.steps), kept.row["tree"], kept.row["commit_id"]
    leg = Leg(desk)
    working = asyncio.ensure_future(steps_of(leg))
    try:
        while not working.done():
            await asyncio.wait({working}, timeout=None if kept.row["cancel_requested_us"] else WATCH_S)
            if kept.row["cancel_requested_us"] is not None:
                working.cancel()
                await asyncio.wait({working})
        with suppress(asyncio.CancelledError, LeaseLostError):
            working.result()
            return
        if kept.row["cancel_requested_us"] is None:
            raise LeaseLostError(str(task.id))
        await leg.stopped(Ending(TaskState.CANCELED))
    finally:
        working.cancel()
        await asyncio.wait({working})


async def steps_of(leg: Leg) -> None:
    await leg.desk.parts.trees.restore(leg.desk.place, leg.desk.tree)
    while (ending := await leg._step()) is None:
        pass
    await leg._leave(ending)


async def scenario(dice: SimDice, clock: SimClock, *, is_restored: bool = True) -> int:
    """Run the world to its end; returns how many processes crashed on the way."""
    machine = Machine(clock, LeaseTwin(SPEC, clock), is_restored)
    for number in range(1, TENANTS + 1):
        for each in range(TASKS):
            add_task(machine, number, each, dice)
    nemesis = Nemesis(clock, dice, crash=0.01, pause=0.03, pause_s=(0.05, 0.5, 10.0))
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(nemesis.keep_alive(boot(machine, dice, each), 0.5)) for each in range(WORKERS)]
        group.create_task(cancel_some(machine, dice))
        await clock.sleep(TROUBLE_S)
        nemesis.calm()
        deadline = clock.monotonic() + DONE_WITHIN_S
        while not all(kept.state in FINAL for kept in machine.tasks.values()):
            assert clock.monotonic() < deadline, [(kept.states, kept.steps) for kept in machine.tasks.values()]
            await clock.sleep(0.5)
        nemesis.stop()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for kept in machine.tasks.values():
        check_the_end(machine, kept)
    return nemesis.crashes


async def cancel_some(machine: Machine, dice: SimDice) -> None:
    for kept in machine.tasks.values():
        await machine.clock.sleep(dice.pick(0.0, 0.1, 1.0))
        if dice.chance(0.3) and kept.state not in FINAL:
            kept.row["cancel_requested_us"] = machine.clock.now_us()


def check_the_end(machine: Machine, kept: Kept) -> None:
    is_asked = kept.row["cancel_requested_us"] is not None
    assert kept.state is (TaskState.CANCELED if is_asked else TaskState.COMPLETE), (kept.states, kept.steps)
    assert not any(step.status is StepStatus.INTENT for step in kept.steps), "a step is open in a task that is over"
    tools = [(step.model_seq, step.call_id) for step in kept.steps if step.kind is StepKind.TOOL and step.is_live]
    assert len(tools) == len(set(tools)), "a call was performed twice"
    done = machine.trees[kept.row["tree"]]
    assert done == kept.script[: len(done)], (done, kept.script)
    assert is_asked or done == kept.script, (done, kept.script)
