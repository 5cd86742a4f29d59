"""Migrations: each file once, in order, whole or not at all, and a store that does not fit is named."""

import asyncio
import os
import signal
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.ids import created_ms
from interlock.foundation.store import StoreConfig, StoreUrls, ensure_partitions, migrate
from interlock.foundation.store.migrations import read_folder, split_statements
from interlock.foundation.store.partitions import bound
from tests.support.store import IDS, running_store

CLOCK = SystemClock()
TENANT = """
CREATE TABLE {name} (organization_id uuid NOT NULL, id uuid NOT NULL, at timestamptz NOT NULL, {key}) {split};
ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {name} FORCE ROW LEVEL SECURITY;
CREATE POLICY {name}_ops ON {name} TO interlock_ops USING (true);
GRANT SELECT, INSERT ON {name} TO interlock_ops;
"""


@pytest.fixture
async def database(store_urls):
    """URLs of an empty database of the session's store."""
    name = f"t_{IDS.new().hex}"
    admin = await asyncpg.connect(store_urls.superuser)
    await admin.execute(f"CREATE DATABASE {name} OWNER interlock_owner")
    moved = {role: getattr(store_urls, role).replace("/interlock?", f"/{name}?") for role in ("owner", "app", "ops")}
    yield type(store_urls)(**moved)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def write(folder, number, sql, *, phase="expand", third=""):
    path = folder / f"{number:04d}_store_step.sql"
    path.write_text(f"-- why: a step of the test\n-- phase: {phase}\n{third}\n{sql}\n")
    return path


async def ask(urls, sql):
    connection = await asyncpg.connect(urls.owner)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def refused(urls, folder, **options):
    with pytest.raises(BrokenWorldError) as caught:
        await migrate(urls, clock=CLOCK, folder=folder, **options)
    return caught.value.code


async def test_each_file_is_applied_once_and_in_order(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    write(folder, 2, "INSERT INTO store_a VALUES (2)")
    assert (await migrate(database, dry_run=True, clock=CLOCK, folder=folder)).applied == (
        "0001_store_step",
        "0002_store_step",
    )
    assert (await migrate(database, 1, clock=CLOCK, folder=folder)).version == 1
    assert (await migrate(database, clock=CLOCK, folder=folder)).applied == ("0002_store_step",)
    assert (await migrate(database, clock=CLOCK, folder=folder)).applied == ()
    assert await ask(database, "SELECT n FROM store_a") == [(2,)]


async def test_a_dry_run_changes_nothing(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    await migrate(database, dry_run=True, clock=CLOCK, folder=folder)
    assert await ask(database, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


async def test_an_edited_file_a_gap_and_a_newer_store_are_named(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    third = write(folder, 3, "SELECT 3")
    assert await refused(database, folder) == "migration_gap"
    write(folder, 2, "SELECT 2")
    await migrate(database, clock=CLOCK, folder=folder)
    await ask(database, "DELETE FROM store_migrations WHERE version = 2")
    assert await refused(database, folder) == "migration_gap"
    await ask(
        database,
        "INSERT INTO store_migrations SELECT 2, '0002_store_step', phase, sha256(E'-- why: a step of the test\n"
        "-- phase: expand\n\nSELECT 2\n'), now(), 1, app_version FROM store_migrations WHERE version = 1",
    )
    write(folder, 1, "CREATE TABLE store_a (n bigint)")
    assert await refused(database, folder) == "migration_changed"
    write(folder, 1, "CREATE TABLE store_a (n int)")
    # Only an expand file is ahead: the release before still runs.
    third.unlink()
    assert (await migrate(database, clock=CLOCK, folder=folder)).version == 3
    write(folder, 3, "SELECT 3")
    contract = write(folder, 4, "ALTER TABLE store_a DROP COLUMN n", phase="contract")
    await migrate(database, clock=CLOCK, folder=folder)
    contract.unlink()
    assert await refused(database, folder) == "schema_newer"


async def test_a_failed_file_leaves_nothing_and_the_next_start_goes_on(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    write(folder, 2, "CREATE TABLE store_b (n int); SELECT 1 / 0")
    assert await refused(database, folder) == "migration_failed"
    assert await ask(database, "SELECT to_regclass('store_b')::text, max(version) FROM store_migrations") == [(None, 1)]
    write(folder, 2, "CREATE TABLE store_b (n int)")
    assert (await migrate(database, clock=CLOCK, folder=folder)).version == 2


async def test_a_store_killed_in_the_middle_of_a_file_has_all_of_it_or_nothing(folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    write(folder, 2, "CREATE TABLE store_b (n int); SELECT pg_sleep(3600); INSERT INTO store_a VALUES (1)")
    async with running_store() as (launcher, urls):
        await ask(urls, "SELECT 1")
        admin = await asyncpg.connect(urls.superuser)
        await admin.execute("CREATE DATABASE half OWNER interlock_owner")
        half = StoreUrls(*(url.replace("/interlock?", "/half?") for url in (urls.owner, urls.app, urls.ops)))
        running = asyncio.create_task(migrate(half, clock=CLOCK, folder=folder))
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        async with asyncio.timeout(120):
            while not await admin.fetchval(sleeping):
                await asyncio.sleep(0.02)
        os.kill(launcher.pid, signal.SIGKILL)
        with pytest.raises(InterlockError) as lost:
            await running
        assert lost.value.code == "store_unavailable"
        admin.terminate()
        await launcher.start()
        assert await ask(half, "SELECT max(version) FROM store_migrations") == [(1,)]
        write(folder, 2, "CREATE TABLE store_b (n int)")
        assert (await migrate(half, clock=CLOCK, folder=folder)).version == 2


async def test_two_starts_at_once_apply_each_file_once(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int); SELECT pg_sleep(0.2)")
    write(folder, 2, "INSERT INTO store_a VALUES (1)")
    results = await asyncio.gather(*(migrate(database, clock=CLOCK, folder=folder) for _ in range(4)))
    assert sorted(len(each.applied) for each in results) == [0, 0, 0, 2]
    assert await ask(database, "SELECT count(*) FROM store_a") == [(1,)]


async def test_a_locked_table_is_tried_again_and_then_named(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    await migrate(database, clock=CLOCK, folder=folder)
    write(folder, 2, "ALTER TABLE store_a ADD COLUMN m int")
    holder = await asyncpg.connect(database.owner)
    await holder.execute("BEGIN; LOCK TABLE store_a")
    config = StoreConfig(lock_timeout_s=1, lock_tries=1)
    assert await refused(database, folder, config=config) == "migration_failed"
    waiting = asyncio.create_task(
        migrate(database, clock=CLOCK, folder=folder, config=StoreConfig(lock_timeout_s=1, lock_tries=100))
    )
    await asyncio.sleep(1.2)
    await holder.execute("COMMIT")
    await holder.close()
    assert (await waiting).version == 2


async def test_a_contract_file_waits_for_the_processes_of_the_older_release(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    write(folder, 2, "ALTER TABLE store_a DROP COLUMN n", phase="contract")
    older = await asyncpg.connect(database.owner, server_settings={"application_name": "interlock/0.0.9/edge-0"})
    assert await refused(database, folder) == "migration_blocked"
    await older.close()
    async with asyncio.timeout(60):
        while await ask(database, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%0.0.9%'"):
            await asyncio.sleep(0.01)
    assert (await migrate(database, clock=CLOCK, folder=folder)).version == 2


async def test_a_file_without_a_transaction_may_build_an_index_concurrently(database, folder):
    write(folder, 1, "CREATE TABLE store_a (n int)")
    write(
        folder,
        2,
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS store_a_n ON store_a (n);\nINSERT INTO store_a VALUES (1);",
        third="-- no-transaction",
    )
    await migrate(database, clock=CLOCK, folder=folder)
    assert await ask(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'store_a_n'::regclass") == [(True,)]


def test_a_file_without_why_phase_or_number_is_malformed(folder):
    for name, text in (
        ("0001_a.sql", "SELECT 1"),
        ("0001_a.sql", "-- why: x\n-- phase: later\n"),
        ("1_a.sql", "-- why: x\n-- phase: expand\n"),
    ):
        (folder / name).write_text(text)
        with pytest.raises(BrokenWorldError) as caught:
            read_folder(folder)
        assert caught.value.code == "migration_malformed"
        (folder / name).unlink()


async def test_partitions_are_made_ahead_for_every_kind_of_key(database, folder):
    by_time = TENANT.format(name="store_t", key="PRIMARY KEY (at, id)", split="PARTITION BY RANGE (at)")
    by_id = TENANT.format(name="store_i", key="PRIMARY KEY (organization_id, id)", split="PARTITION BY RANGE (id)")
    by_us = (
        "CREATE TABLE store_u (at_us bigint NOT NULL) PARTITION BY RANGE (at_us);"
        "COMMENT ON TABLE store_u IS 'partitions: month'"
    )
    write(folder, 1, f"{by_time}{by_id}{by_us};GRANT USAGE ON SCHEMA public TO interlock_ops")
    made = (await migrate(database, clock=CLOCK, folder=folder)).partitions
    assert len(made) == 15
    month = datetime.fromtimestamp(CLOCK.now_us() / 1e6, tz=UTC).strftime("%Y%m")
    assert f"store_u_p{month}" in made
    assert await ensure_partitions(database) == []
    now = f"INSERT INTO store_i VALUES ('{IDS.new()}', '{IDS.new()}', now()) RETURNING tableoid::regclass::text"
    ops = await asyncpg.connect(database.ops)
    assert (await ops.fetchval(now)).startswith("store_i_p")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ops.fetch(f"SELECT * FROM {made[0]}")
    await ops.close()
    bare = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND NOT relforcerowsecurity"
    assert [row for row in await ask(database, bare) if row[0].startswith(("store_t_p2", "store_i_p2"))] == []


async def test_many_workers_make_each_partition_once(database, folder):
    write(folder, 1, TENANT.format(name="store_t", key="PRIMARY KEY (at, id)", split="PARTITION BY RANGE (at)"))
    await migrate(database, clock=CLOCK, folder=folder)
    wider = StoreConfig(partitions_ahead=6)
    made = await asyncio.gather(*(ensure_partitions(database, wider) for _ in range(4)))
    assert sorted(len(each) for each in made) == [0, 0, 0, 3]


@given(st.datetimes(datetime(2020, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 - hypothesis asks for naive bounds
def test_a_bound_lies_between_the_ids_of_the_day_before_and_the_day(moment):
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC)
    low = UUID(bound("uuid", day).strip("'"))
    assert created_ms(low) == int(day.timestamp() * 1000)
    assert low < UUID(int=int(day.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)
    assert low > UUID(int=(int(day.timestamp() * 1000) - 1) << 80 | 7 << 76 | ((1 << 62) - 1))


def test_statements_end_at_the_end_of_a_line():
    assert split_statements("-- why: a;\nSELECT ';' || 'x';\nSELECT 2;\n") == ["SELECT ';' || 'x'", "SELECT 2"]
