"""A task engine without a platform: the real store, trees and tools, a scripted model, a worker to be killed."""

import inspect
import json
from contextlib import suppress

from interlock.agents.config import AgentsConfig
from interlock.agents.domain import adversary
from interlock.agents.domain.transcripts import read_transcript
from interlock.agents.metrics import TaskMetrics
from interlock.agents.service.control import ControlService
from interlock.agents.service.desk import LegParts
from interlock.agents.service.reading import ReadingService
from interlock.agents.service.submit import SubmitService, Wanted
from interlock.agents.store.journal import Journal
from interlock.agents.store.rows import Input
from interlock.agents.worker import TaskWorker, tasks_spec
from interlock.contracts.inference import ChatAnswer, Credential, ToolCall
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.identity import KeyBounds
from interlock.foundation.leases import LeaseTable
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Metrics
from tests.support.store import IDS, make_tenant, scope_of

CLOCK = SystemClock()


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it is written."""


class MortalJournal(Journal):
    """Dies before or after one of its writes, the one that `fuse` counts down to."""

    fuse = None
    points = 0
    # Uses of the tree are phases beside the writes; `on_phase` is called with the number of each.
    phases = 0
    on_phase = None

    def phase(self):
        self.phases += 1
        if self.on_phase is not None:
            self.on_phase(self.phases)

    def _point(self):
        self.phase()
        self.points += 1
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse == 0:
                raise KilledError

    async def start(self, *args):
        self._point()
        found = await super().start(*args)
        self._point()
        return found

    async def begin(self, *args):
        self._point()
        found = await super().begin(*args)
        self._point()
        return found

    async def reopen(self, *args):
        self._point()
        await super().reopen(*args)
        self._point()

    async def end(self, *args):
        self._point()
        await super().end(*args)
        self._point()

    async def change(self, *args):
        self._point()
        found = await super().change(*args)
        self._point()
        return found


class PhasedTrees:
    """Trees whose every use is a phase of its own, before and after."""

    def __init__(self, trees, journal):
        self._trees = trees
        self._journal = journal

    def __getattr__(self, name):
        found = getattr(self._trees, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def phased(*args, **options):
            self._journal.phase()
            result = await found(*args, **options)
            self._journal.phase()
            return result

        return phased


class ScriptedModels:
    """Implements `ModelClient` with the scripts of `adversary`; counts its calls."""

    def __init__(self):
        self.calls = 0
        self.lent = 0
        self.bounds = None

    async def lend(self, scope, *, link, ttl_s, scopes=("inference",), bounds=None):
        self.lent += 1
        self.bounds = bounds
        return Credential(IDS.new(), "il_task_x", CLOCK.now_us() + round(ttl_s * 1e6), link)

    async def extend(self, scope, credential, ttl_s):
        return credential

    async def revoke(self, scope, credential):
        self.lent -= 1

    async def chat(self, credential, call):
        self.calls += 1
        said = adversary.next_call(read_transcript(call.messages))
        made = sum(message["role"] == "assistant" for message in call.messages)
        tool = ToolCall(f"call_{made}", said.name, json.dumps(dict(said.arguments)))
        return ChatAnswer(f"req_{self.calls}", said.text, (tool,), "tool_calls", 100, 10, 5, 1.0)


class Engine:
    """One workspace, one worker."""

    def __init__(self, store, machine, folder, scope):
        self.store, self.scope = store, scope
        audit = AuditLog(CLOCK, Redactor())
        self.journal = MortalJournal(store, ArtifactStore(folder), audit, CLOCK, IDS, config=AgentsConfig())
        self.models = ScriptedModels()
        self.config = AgentsConfig(lease_s=300.0)
        parts = LegParts(
            self.journal, PhasedTrees(machine.trees, self.journal), machine.tools, machine.sandbox, self.models, CLOCK,
            SystemDice(), lambda _task, _tool: False, "here", self.config, TaskMetrics(Metrics()),
        )  # fmt: skip
        self.submissions = SubmitService(self.journal, machine.trees, None, _any_model, self.config)
        self.control = ControlService(self.journal, self.submissions, Redactor())
        self.reading = ReadingService(self.journal)
        self.worker = TaskWorker(parts, _Slots(machine), f"worker-{scope.workspace_id}", 4, _no_secrets, _forget)
        self.table = LeaseTable(tasks_spec(self.config.lease_s), store)

    @classmethod
    async def make(cls, store, machine, folder):
        organization_id, workspace_id = await make_tenant(store)
        return cls(store, machine, folder, scope_of(organization_id, workspace_id))

    async def submit(self, *calls, files=None, **fields):
        goal = "script:" + json.dumps([{"tool": tool, "args": args} for tool, args in calls])
        repo = Input("files", files or {"a.txt": "one\n"})
        async with self.store.transaction(self.scope) as tx:
            return await self.submissions.submit(tx, Wanted(goal, "adversary", repo, **fields))

    async def leg(self):
        """Claim what is due here and run one leg; return whether something was."""
        for lease in await self.table.claim(self.worker.owner, 50):
            if lease.workspace_id != self.scope.workspace_id:
                await self.table.release(lease.fence, None, 0.0)
                continue
            await self.worker.work(lease)
            await self.table.finish(lease.fence, 0.0)
            return True
        return False

    async def run(self, task):
        """Work until nothing is due; a worker that dies starts again under its name."""
        deaths = 0
        for _ in range(40):
            try:
                if not await self.leg():
                    break
            except KilledError:
                deaths += 1
                await self.worker._forget_earlier_self()
        return await self.journal.find(self.scope, task.id), deaths

    async def steps(self, task):
        return await self.journal.steps(self.scope, task)


class _Slots:
    """The machine's one slot, which nobody else uses here."""

    def __init__(self, machine):
        self._slot = machine.slot

    def take(self):
        return self._slot

    def give_back(self, slot):
        with suppress(ValueError):
            assert slot is self._slot


async def _any_model(_scope, _model):
    return KeyBounds()


async def _no_secrets(_task):
    return {}


async def _forget(_task):
    return None
