"""Tenants are apart in every table there is: the tests ask the catalogue, so a new table cannot be forgotten."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interlock
from interlock.foundation.scope import ALL_WORKSPACES
from interlock.foundation.store import Query
from interlock.foundation.store.queries import parse
from tests.support.store import IDS, opened, scope_of

SOURCE = Path(interlock.__file__).parent
QUERY_FILES = sorted(SOURCE.rglob("queries.sql"))
TENANT_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""
ADD = Query(
    "add",
    "a small row of a tenant",
    "INSERT INTO store_idempotency_keys (organization_id, workspace_id, endpoint, key, fingerprint, expires_at)"
    " VALUES ($1, $2, 'isolation', $3, ''::bytea, now())",
)
LIST = Query("list", "what is there", "SELECT key FROM store_idempotency_keys WHERE endpoint = 'isolation'")
MARK = Query("mark", "a write", "UPDATE store_idempotency_keys SET owner = $1 WHERE endpoint = 'isolation'")
MOVE = Query("move", "a smuggled row", "UPDATE store_idempotency_keys SET organization_id = $1 WHERE key = $2")


# Who may look at all tenants at once. A new line here is a decision: a loop, a directory in memory, or the operator.
OPS_CALLERS = {
    "agents/service/leg.py",
    "agents/service/sweep.py",
    "agents/worker.py",
    "console/pool_capacity.py",
    "console/pools.py",
    "crawler/service/hosts.py",
    "crawler/store/crawls.py",
    "crawler/store/deleting.py",
    "crawler/store/frontier.py",
    "crawler/store/hosts.py",
    "crawler/store/outbox.py",
    "crawler/store/retention.py",
    "crawler/worker/keeper.py",
    "evals/service/deciding.py",
    "evals/service/platform_gates.py",
    "evals/service/renewing.py",
    "evals/service/rollout_monitor.py",
    "evals/service/signing.py",
    "foundation/audit/service.py",
    "foundation/control/dispatch.py",
    "foundation/flags/feed.py",
    "foundation/flags/service.py",
    "foundation/flags/store.py",
    "foundation/identity/bootstrap.py",
    "foundation/identity/directory.py",
    "foundation/identity/keys.py",
    "foundation/identity/lent.py",
    "foundation/identity/service.py",
    "foundation/identity/sessions.py",
    "foundation/leases/table.py",
    "foundation/leases/ticks.py",
    "foundation/secrets/rotation.py",
    "foundation/store/lookout.py",
    "foundation/telemetry/shipper.py",
    "gateway/service/limits.py",
    "gateway/service/prices.py",
    "gateway/service/route_versions.py",
    "gateway/service/stories.py",
    "gateway/service/upstreams.py",
    "gateway/service/weights.py",
    "gateway/store/directory.py",
    "gateway/store/replies.py",
    "gateway/worker.py",
    "retrieval/store/ingest/probes.py",
    "retrieval/store/ingest/work.py",
    "retrieval/worker.py",
    "scheduler/routes/admin.py",
    "scheduler/routes/rollout.py",
    "scheduler/service/leading.py",
    "scheduler/service/pools.py",
    "scheduler/service/reading.py",
    "scheduler/service/recording.py",
    "scheduler/service/rollout.py",
    "wiring/scheduling.py",
    "wiring/task_vault.py",
}


@pytest.fixture
async def admin(store_urls):
    connection = await asyncpg.connect(store_urls.superuser, database="interlock")
    yield connection
    await connection.close()


async def rows(connection, sql, *args):
    return [tuple(row) for row in await connection.fetch(sql, *args)]


async def test_without_a_scope_every_tenant_table_answers_with_an_error(admin, store_urls):
    """A role that may nothing on a table gets an error as well; what nobody gets is rows, or an empty answer."""
    tables = [name for (name,) in await rows(admin, TENANT_TABLES)]
    assert "store_idempotency_keys" in tables
    app = await asyncpg.connect(store_urls.app)
    silent = []
    try:
        for table in tables:
            for statement in (
                f"SELECT * FROM {table}",
                f"SELECT count(*) FROM {table}",
                f"DELETE FROM {table}",
                f"UPDATE {table} SET organization_id = organization_id",
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table}",
            ):
                try:
                    await app.execute(statement)
                except (asyncpg.UndefinedObjectError, asyncpg.InsufficientPrivilegeError):
                    continue
                silent.append(statement)
    finally:
        await app.close()
    assert silent == []


async def test_an_empty_scope_is_an_error_and_never_a_comparison(admin, store_urls):
    """After a transaction the setting is left as an empty text; it must not be taken for a tenant."""
    app = await asyncpg.connect(store_urls.app)
    try:
        for workspace in ("", "*"):
            await app.execute("SELECT set_config('interlock.organization_id', '', false)")
            await app.execute("SELECT set_config('interlock.workspace_id', $1, false)", workspace)
            for (table,) in await rows(admin, TENANT_TABLES):
                with pytest.raises((asyncpg.InvalidTextRepresentationError, asyncpg.InsufficientPrivilegeError)):
                    await app.fetch(f"SELECT * FROM {table}")
    finally:
        await app.close()


async def test_every_table_is_the_owners_and_the_others_own_nothing(admin):
    strays = await rows(
        admin,
        "SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND pg_get_userbyid(relowner) <> 'interlock_owner'",
    )
    assert strays == []
    powers = await rows(
        admin,
        "SELECT rolname FROM pg_roles WHERE rolname IN"
        " ('interlock_owner', 'interlock_app', 'interlock_ops', 'interlock_read')"
        " AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
    )
    assert powers == []


async def test_every_table_has_forced_row_level_security(admin):
    bare = await rows(
        admin,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT (relrowsecurity AND relforcerowsecurity)",
    )
    assert bare == []


async def test_every_policy_of_the_app_compares_the_organization(admin):
    tenant = {name for (name,) in await rows(admin, TENANT_TABLES)}
    policies = await rows(
        admin, "SELECT tablename, policyname, roles::text[], permissive, qual, with_check FROM pg_policies"
    )
    wanted = re.compile(
        r"^\(*organization_id = \(current_setting\('interlock\.organization_id'::text\)\)::uuid\)*( AND|$)"
    )
    problems = []
    for table, policy, roles, permissive, qual, check in policies:
        if not set(roles) <= {"interlock_app", "interlock_ops", "interlock_owner", "interlock_read"}:
            problems.append((policy, "is for a role that we do not know", roles))
        if table not in tenant or not {"interlock_app", "interlock_read"} & set(roles):
            continue
        problems += [(policy, each) for each in (qual, check) if each and not wanted.match(each)]
        if permissive != "PERMISSIVE" and not qual:
            problems.append((policy, "says nothing"))
    assert problems == []


async def test_nobody_reaches_a_partition_past_its_parent(admin):
    open_partitions = await rows(
        admin,
        "SELECT c.relname, g.grantee FROM pg_class c JOIN information_schema.table_privileges g"
        " ON g.table_name = c.relname AND g.grantee <> 'interlock_owner' WHERE c.relispartition",
    )
    assert open_partitions == []


async def test_no_view_and_no_function_acts_for_its_owner(admin):
    views = await rows(
        admin,
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
        " AND NOT coalesce('security_invoker=true' = ANY(reloptions), false)",
    )
    functions = await rows(
        admin, "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    )
    assert (views, functions) == ([], [])


@pytest.mark.parametrize("path", QUERY_FILES, ids=lambda path: str(path.parent.relative_to(SOURCE)))
async def test_every_named_query_fits_the_schema_and_some_role_may_run_it(path, store_urls):
    failed = []
    connections = [await asyncpg.connect(url) for url in (store_urls.app, store_urls.ops, store_urls.owner)]
    try:
        for connection in connections:
            await connection.execute(
                "BEGIN; SELECT set_config('interlock.organization_id', '00000000-0000-7000-8000-000000000000', true),"
                " set_config('interlock.workspace_id', '*', true)"
            )
        for query in parse(path.read_text(), path.parent.name).values():
            refusals = [each for each in [await refusal(connection, query.sql) for connection in connections] if each]
            if len(refusals) == len(connections):
                failed.append((query.name, refusals))
    finally:
        for connection in connections:
            await connection.close()
    assert failed == []


async def refusal(connection, sql):
    """Why this role may not run the statement; planning it asks for the permissions as running it would."""
    await connection.execute("SAVEPOINT before")
    try:
        await connection.prepare(sql)
        if sql.startswith("CREATE TEMPORARY"):
            await connection.execute(sql)
            return None
        if re.match(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b", sql):
            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
    except asyncpg.PostgresError as error:
        await connection.execute("ROLLBACK TO before")
        return str(error)
    return None


def test_only_these_look_at_all_tenants_at_once():
    callers = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"store\.ops(_single)?\(", path.read_text())
    }
    assert callers - {"foundation/store/store.py"} == OPS_CALLERS


TENANTS = [(IDS.new(), [IDS.new(), IDS.new()]) for _ in range(2)]
STEP = st.tuples(
    st.integers(0, 1),
    st.one_of(st.none(), st.integers(0, 1)),
    st.sampled_from(["add", "list", "mark", "steal", "move", "roll back"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=2, max_size=12))
def test_two_tenants_on_one_connection_see_what_a_naive_model_says(steps, store_urls):
    asyncio.run(walk(steps, store_urls))


async def walk(steps, store_urls):
    model: dict[str, tuple[UUID, UUID]] = {}
    mark = IDS.new().hex
    async with opened(store_urls, connections_max=1) as store:
        for number, (tenant, chosen, action) in enumerate(steps):
            organization, workspaces = TENANTS[tenant]
            other, other_workspaces = TENANTS[1 - tenant]
            workspace = ALL_WORKSPACES if chosen is None else workspaces[chosen]
            scope = scope_of(organization, workspace)
            key = f"{mark}-{number}"
            mine = {
                name
                for name, (owner, where) in model.items()
                if owner == organization and workspace in {where, ALL_WORKSPACES}
            }
            if action == "add":
                where = workspaces[chosen or 0]
                async with store.transaction(scope) as tx:
                    await tx.execute(ADD, organization, where, key)
                model[key] = (organization, where)
            elif action == "list":
                async with store.transaction(scope) as tx:
                    seen = {row["key"] for row in await tx.fetch(LIST) if row["key"].startswith(mark)}
                assert seen == mine
            elif action == "mark":
                async with store.transaction(scope) as tx:
                    assert await tx.execute(MARK, mark) >= len(mine)
            elif action == "steal":
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with store.transaction(scope) as tx:
                        await tx.execute(ADD, other, other_workspaces[0], key)
            elif action == "move" and mine:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with store.transaction(scope) as tx:
                        await tx.execute(MOVE, other, min(mine))
            elif action == "roll back":
                await add_and_roll_back(store, scope, organization, workspaces[chosen or 0], key)
            with pytest.raises((asyncpg.UndefinedObjectError, asyncpg.InvalidTextRepresentationError)):
                await store.single(LIST)


async def add_and_roll_back(store, scope, *args):
    with suppress(LookupError):
        async with store.transaction(scope) as tx:
            await tx.execute(ADD, *args)
            raise LookupError


async def test_a_scope_does_not_outlive_its_transaction_on_any_connection_of_the_pool(store, scope):
    for _ in range(3):
        async with store.transaction(scope) as tx:
            await tx.execute(ADD, scope.organization_id, scope.workspace_id, IDS.new().hex)
        for _ in range(store.statistics().app.size + 1):
            with pytest.raises((asyncpg.UndefinedObjectError, asyncpg.InvalidTextRepresentationError)):
                await store.single(LIST)


async def test_the_loops_see_all_tenants_but_cannot_leave_the_policies(store, store_urls):
    ops = await asyncpg.connect(store_urls.ops)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ops.execute("ALTER TABLE store_idempotency_keys DISABLE ROW LEVEL SECURITY")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ops.execute("SET ROLE interlock_owner")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ops.execute("CREATE TABLE public.mine (n int)")
    await ops.close()
    assert store.is_up
