"""What people do to a task from outside is checked like a submit, and leaves nothing behind that was to be dropped."""

import pytest

from interlock.agents.domain.states import TaskState
from interlock.agents.service.control import Branching, ControlService
from interlock.agents.service.submit import SubmitService
from interlock.foundation.errors import InterlockError
from tests.agents.engine import Engine

ASKS = ("ask_human", {"question": "go on?"})


class Vault:
    """Stands for the vault: what is sealed in it, by name."""

    def __init__(self):
        self.sealed = {}

    async def set(self, _tx, name, value):
        self.sealed[name] = value

    async def remove(self, _tx, name):
        if self.sealed.pop(name, None) is None:
            raise InterlockError("not_found")


@pytest.fixture
async def engine(store, machine, tmp_path):
    engine = await Engine.make(store, machine, tmp_path / "artifacts")
    engine.vault, engine.models_of_key = Vault(), {"adversary"}

    async def knows(_scope, model):
        return model in engine.models_of_key

    engine.submissions = SubmitService(engine.journal, machine.trees, engine.vault, knows, engine.config)
    engine.control = ControlService(engine.journal, engine.submissions)
    return engine


async def fork(engine, task, **fields):
    async with engine.store.transaction(engine.scope) as tx:
        return await engine.control.fork(tx, task.public_id, Branching(0, **fields))


async def test_a_fork_names_no_model_that_its_callers_key_may_not_use(engine):
    task = await engine.submit()
    assert (await fork(engine, task)).row["model"] == "adversary"
    with pytest.raises(InterlockError, match="model_not_found"):
        await fork(engine, task, model="dear")
    engine.models_of_key = {"dear"}
    with pytest.raises(InterlockError, match="model_not_found"):
        await fork(engine, task)
    assert (await fork(engine, task, model="dear")).row["model"] == "dear"


async def test_a_fork_takes_its_place_in_the_queue(engine):
    object.__setattr__(engine.config, "queued_workspace_max", 1)
    task = await engine.submit()
    with pytest.raises(InterlockError, match="queue_full"):
        await fork(engine, task)


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_a_cancel_of_what_nobody_works_on_drops_its_secrets(engine, is_blocked):
    task = await engine.submit(ASKS, secrets={"TOKEN": "value-of-it"}, vault_names=("KEPT",))
    engine.vault.sealed["KEPT"] = "stays"
    assert len(engine.vault.sealed) == 2
    if is_blocked:
        task, _ = await engine.run(task)
        assert task.state is TaskState.BLOCKED
    async with engine.store.transaction(engine.scope) as tx:
        canceled, _ = await engine.control.cancel(tx, task.public_id, "")
    assert canceled.state is TaskState.CANCELED
    assert engine.vault.sealed == {"KEPT": "stays"}


async def test_a_task_names_no_secret_that_came_with_another(engine):
    other = await engine.submit(secrets={"TOKEN": "value-of-it"})
    with pytest.raises(InterlockError, match="invalid_request"):
        await engine.submit(vault_names=(f"{other.public_id}.TOKEN",))
