"""Agents put together: their use cases in control, the offline models beside it, their legs in a worker.

Holds no logic; models are reached through the gateway like any caller's.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from interlock.agents.adapters.git import GitTrees
from interlock.agents.adapters.namespaces import this_machine
from interlock.agents.adapters.offline_models import OfflineModelServer, model_names
from interlock.agents.adapters.sandbox import BubblewrapSandbox
from interlock.agents.adapters.slots import MachineSlots
from interlock.agents.adapters.state_folder import state_folder
from interlock.agents.adapters.tools import TaskTools
from interlock.agents.config import AgentsConfig
from interlock.agents.metrics import TaskMetrics
from interlock.agents.routes import TaskHandlers
from interlock.agents.routes import routes as task_routes
from interlock.agents.service.control import ControlService
from interlock.agents.service.desk import LegParts
from interlock.agents.service.reading import ReadingService
from interlock.agents.service.submit import SubmitService
from interlock.agents.service.sweep import Sweeper
from interlock.agents.store.journal import Journal
from interlock.agents.store.rows import Task
from interlock.agents.worker import TaskWorker
from interlock.console import Console
from interlock.console.tasks import TaskPages, task_pages
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.control.route import Call, Route
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import format_id
from interlock.foundation.scope import AllWorkspaces
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.gateway import register_offline
from interlock.wiring.gateway import lent_keys, model_client
from interlock.wiring.ground import Ground
from interlock.wiring.task_vault import KnownModels, TaskVault, task_secrets

OFFLINE_SOCKET: Final = "offline"
_DRAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class TaskUses:
    """What control and the console need of tasks."""

    submissions: SubmitService
    control: ControlService
    reading: ReadingService


def journal_of(ground: Ground, store: Store, artifacts: ArtifactStore) -> Journal:
    """Return the journals of this process."""
    config = ground.config.section(AgentsConfig)
    return Journal(store, artifacts, ground.audit(), ground.clock, ground.ids, config=config)


def task_uses(ground: Ground, store: Store, artifacts: ArtifactStore) -> TaskUses:
    """Return the use cases of tasks."""
    journal = journal_of(ground, store, artifacts)
    trees = GitTrees(state_folder(ground.directory.root), ground.ids)
    config = ground.config.section(AgentsConfig)
    models = KnownModels(store, lent_keys(ground, store))
    submissions = SubmitService(journal, trees, task_secrets(ground, is_opener=False), models.bounds_for, config)
    return TaskUses(submissions, ControlService(journal, submissions, ground.redactor), ReadingService(journal))


def task_routes_of(ground: Ground, uses: TaskUses, page: Console) -> list[Route]:
    """Return the routes of tasks."""
    config, switches = ground.config.section(AgentsConfig), page.kills

    def stops(call: Call) -> bool:
        scope = call.within
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else format_id("ws", scope.workspace_id)
        return _is_stopped(switches, scope.organization_id, where or "", None)

    handlers = TaskHandlers(uses.submissions, uses.control, uses.reading, ground.clock, config, Counter(), stops)
    pages = TaskPages(page.frame, uses.reading, uses.control)
    page.samples["task"], page.watchers["tasks"] = pages.sampler, pages.standing
    return [*task_routes(handlers), *task_pages(pages)]


async def serve_offline_models(ground: Ground) -> None:
    """Serve the models without a language model on their socket until cancelled; an edge has the token."""
    names = model_names(with_test_models=ground.options.test_models)
    server = OfflineModelServer(names, token=ground.internal_token, clock=ground.clock, ids=ground.ids)
    path = ground.directory.socket(OFFLINE_SOCKET)
    path.unlink(missing_ok=True)
    await server.start(path)
    try:
        await asyncio.Event().wait()
    finally:
        await server.drain(_DRAIN_S)


async def register_models(ground: Ground, store: Store) -> None:
    """Make the offline models reachable for every organization."""
    names = model_names(with_test_models=ground.options.test_models)
    path = str(ground.directory.socket(OFFLINE_SOCKET))
    await register_offline(store, ground.platform_scope(), path, names, clock=ground.clock, ids=ground.ids)


def task_loops(
    ground: Ground, store: Store, artifacts: ArtifactStore, switches: KillSwitches, lookout: Lookout
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Return the loops of a worker: legs, and deadlines of what nobody works on."""
    sweeper = Sweeper(
        journal_of(ground, store, artifacts), TaskVault(store, task_secrets(ground, is_opener=True)).forget
    )
    worker = task_worker(ground, store, artifacts, switches)
    sweeper.told_by(lookout)
    worker.told_by(lookout)
    return [sweeper.run, sweeper.forget, worker.run]


def task_worker(ground: Ground, store: Store, artifacts: ArtifactStore, switches: KillSwitches) -> TaskWorker:
    """Return what runs legs in this worker."""
    config, state = ground.config.section(AgentsConfig), state_folder(ground.directory.root)
    sandbox = BubblewrapSandbox(state, ground.clock)
    host_id = this_machine().host_id

    def stops(task: Task, tool: str | None) -> bool:
        return _is_stopped(switches, task.organization_id, format_id("ws", task.workspace_id), tool)

    parts = LegParts(
        journal_of(ground, store, artifacts),
        GitTrees(state, ground.ids),
        TaskTools(sandbox, ground.clock, ground.ids),
        sandbox,
        model_client(ground, store),
        ground.clock,
        ground.dice,
        stops,
        host_id,
        config,
        TaskMetrics(ground.metrics),
    )
    parts.metrics.watch_namespaces(lambda: sandbox.statistics()["namespaces_live"])
    vault = TaskVault(store, task_secrets(ground, is_opener=True))
    slots = ground.options.agent_slots
    owner = f"{host_id}:{ground.directory.root}:{ground.name}"
    worker = TaskWorker(parts, MachineSlots(slots), owner, slots, vault.open, vault.forget)
    switches.on_change(worker.look_at_switches)
    return worker


def _is_stopped(switches: KillSwitches, organization_id: object, workspace: str, tool: str | None) -> bool:
    organization = format_id("org", organization_id)  # type: ignore[arg-type] # an id of an organization
    targets = [("agents", "*"), ("agents", organization), ("agents", workspace)]
    if tool is not None:
        targets.append(("agents", f"tool:{tool}"))
    return switches.check(targets, organization_id) is not None  # type: ignore[arg-type] # see above
