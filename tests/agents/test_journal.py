"""A step is two statements: judged by the policies, whole or not at all, and nothing of them stays on a connection."""

import asyncpg
import pytest

from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.store.journal import SQL, Outcome
from interlock.foundation.audit import AuditEntry
from interlock.foundation.errors import InterlockError
from interlock.foundation.leases import LeaseLostError
from tests.agents.engine import Engine

STEP = Step(1, StepKind.TOOL, StepStatus.INTENT, 1, "run", "call_1", 1, '{"command": "true"}', tokens_reserved=5)
BEGUN = ("agents_tasks", "agents_steps", "agents_events", "agents_budget_entries")
ENDED = (*BEGUN, "audit_pending")


@pytest.fixture
async def engine(store, machine, tmp_path):
    return await Engine.make(store, machine, tmp_path / "artifacts")


@pytest.fixture
async def admin(store_urls):
    connection = await asyncpg.connect(store_urls.superuser, database="interlock")
    yield connection
    await connection.close()


async def held(engine):
    """A task with a leg that nobody takes it from."""
    task = await engine.submit()
    lease = next(each for each in await engine.table.claim("held", 50) if each.key == task.id)
    await engine.journal.start(task, lease.token)
    return task, lease.token


def outcome(task):
    return Outcome(StepStatus.DONE, '{"exit_code": 0}', audit=AuditEntry("task.step", "task", task.public_id))


async def heads(engine, task):
    row = (await engine.journal.find(engine.scope, task.id)).row
    return {name: row[name] for name in ("head_step", "head_event", "steps_used", "tokens_reserved")}


@pytest.mark.parametrize(
    ("statement", "table"), [*(("begin_step", each) for each in BEGUN), *(("end_step", each) for each in ENDED)]
)
async def test_no_row_of_a_step_is_written_past_the_policies(engine, admin, statement, table):
    """A policy more, and the statement is refused or changes nothing: it acts for its caller, in every table."""
    task, token = await held(engine)
    if statement == "end_step":
        await engine.journal.begin(task, token, STEP)
        given = await engine.journal._ended(task, token, STEP, outcome(task))
    else:
        given = await engine.journal._begun(task, token, STEP, ())
    sql = getattr(SQL, statement).sql
    for forbids in (False, True):
        transaction = admin.transaction()
        await transaction.start()
        try:
            if forbids:
                await admin.execute(f"CREATE POLICY shut ON {table} AS RESTRICTIVE USING (true) WITH CHECK (false)")
            await admin.execute("SET LOCAL ROLE interlock_app")
            if forbids:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await admin.fetchval(sql, *given)
            else:
                assert await admin.fetchval(sql, *given) == STEP.seq
        finally:
            await transaction.rollback()


async def test_a_step_of_another_tenant_is_not_there(engine, store, machine, tmp_path):
    task, token = await held(engine)
    stranger = await Engine.make(store, machine, tmp_path / "other")
    given = list(await engine.journal._begun(task, token, STEP, ()))
    for organization, workspace in (
        (stranger.scope.organization_id, stranger.scope.workspace_id),
        (stranger.scope.organization_id, task.workspace_id),
        (task.organization_id, stranger.scope.workspace_id),
    ):
        rows = await store.single(SQL.begin_step, organization, workspace, *given[2:])
        assert rows[0]["seq"] is None
    await engine.journal.begin(task, token, STEP)


async def test_nothing_of_a_statement_stays_on_its_connection(engine, store):
    task, token = await held(engine)
    await engine.journal.begin(task, token, STEP)
    await engine.journal.end(task, token, STEP, outcome(task))
    for connection in store._app._all:
        settings = [
            await connection.fetchval("SELECT current_setting($1, true)", f"interlock.{name}_id")
            for name in ("organization", "workspace")
        ]
        assert not any(settings)
        assert await connection.fetchval("SHOW plan_cache_mode") == "auto"


async def test_a_step_that_is_not_open_is_not_ended_and_nothing_else_is_changed(engine):
    task, token = await held(engine)
    await engine.journal.begin(task, token, STEP)
    await engine.journal.end(task, token, STEP, outcome(task))
    before = await heads(engine, task)
    counted = engine.journal.audit.statistics().events
    with pytest.raises(LeaseLostError):
        await engine.journal.end(task, token, STEP, outcome(task))
    with pytest.raises(LeaseLostError):
        await engine.journal.end(task, token + 1, STEP, outcome(task))
    assert await heads(engine, task) == before
    assert engine.journal.audit.statistics().events == counted, "nothing was left, nothing is counted"
    assert await engine.reading.fsck(engine.scope, task) == []


@pytest.mark.parametrize("table", ["audit_pending", "audit_heads"])
async def test_an_outcome_without_its_audit_row_is_refused_as_that_and_leaves_the_step_open(engine, admin, table):
    """The log is away when the event is left, or at the commit."""
    task, token = await held(engine)
    await engine.journal.begin(task, token, STEP)
    before = await heads(engine, task)
    await admin.execute(f"ALTER TABLE {table} RENAME TO audit_gone")
    try:
        with pytest.raises(InterlockError) as refused:
            await engine.journal.end(task, token, STEP, outcome(task))
    finally:
        await admin.execute(f"ALTER TABLE audit_gone RENAME TO {table}")
    assert refused.value.code == "audit_unavailable"
    assert await heads(engine, task) == before
    assert [step.status for step in await engine.steps(task)] == [StepStatus.INTENT]
    await engine.journal.end(task, token, STEP, outcome(task))
    assert engine.journal.audit.statistics().failed == 1
    actions = await admin.fetch("SELECT action FROM audit_events WHERE organization_id = $1", task.organization_id)
    assert [each["action"] for each in actions].count("task.step") == 1
