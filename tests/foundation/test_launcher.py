"""The embedded store starts anywhere, as anybody, after anything, and says what is wrong when it cannot."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store import Launcher, migrate
from interlock.foundation.store import binaries as binaries_module
from interlock.foundation.store import runas as runas_module
from interlock.foundation.store.binaries import Binaries, copied, find_binaries
from interlock.foundation.store.cluster import Cluster
from tests.support.store import PATIENT, end_stores, kill_store, opened, short_directory

CLOCK = SystemClock()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to drop its rights")


@pytest.fixture
def directory():
    path = short_directory()
    yield path
    end_stores(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def template():
    """A store that was started once: most tests are about what comes after, and initdb is the slow part."""
    path = short_directory()

    async def once():
        launcher = launcher_of(path)
        await launcher.start()
        await launcher.stop()

    asyncio.run(once())
    yield path / "pg"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def used(directory, template):
    """A directory with a store in it that does not run."""
    subprocess.run(["cp", "-a", template, directory / "pg"], check=True)
    return directory


def launcher_of(path, **options):
    return Launcher(path, CLOCK, config=PATIENT, env={}, **options)


async def ask(url, statement="SELECT current_user::text"):
    connection = await asyncpg.connect(url, timeout=120)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_each_role_logs_in_with_a_password_and_nobody_without(directory):
    launcher = launcher_of(directory)
    urls = await launcher.start()
    try:
        for role in ("owner", "app", "ops", "read"):
            assert await ask(getattr(urls, role)) == f"interlock_{role}"
        passwords = json.loads((directory / "pg" / "roles.json").read_text())
        assert len(set(passwords.values())) == 5
        assert stat.S_IMODE((directory / "pg" / "roles.json").stat().st_mode) == 0o600
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(urls.app.replace(passwords["interlock_app"], "guess"))
        assert await ask(urls.app, "SHOW data_checksums") == "on"
        assert await ask(urls.app, "SHOW listen_addresses") == ""
        assert await ask(urls.app, "SHOW fsync") == "on"
    finally:
        await launcher.stop()
    assert not launcher.is_alive()
    assert not (directory / "pg" / "data" / "postmaster.pid").exists()


async def test_a_second_launcher_adopts_and_a_stopped_store_keeps_its_rows(used):
    first, second = launcher_of(used), launcher_of(used)
    urls = await first.start()
    await ask(urls.owner, "CREATE TABLE kept AS SELECT 7 AS n")
    assert await second.start() == urls
    assert (second.kind, second.pid) == ("adopted", first.pid)
    assert (await first.start(), first.kind) == (urls, "launched")
    await second.stop()
    assert not first.is_alive()
    urls = await first.start()
    assert await ask(urls.owner, "SELECT n FROM kept") == 7
    await first.stop()


async def test_after_kill_9_it_starts_again_without_a_hand(used):
    launcher = launcher_of(used)
    await launcher.start()
    for _ in range(3):
        killed = launcher.pid
        os.kill(killed, signal.SIGKILL)
        urls = await launcher.start()
        assert launcher.pid != killed
        assert await ask(urls.app) == "interlock_app"
    await launcher.stop()


async def test_a_postmaster_that_is_ending_is_not_adopted_and_its_memory_is_waited_for(used):
    """A backend that stands still keeps the shared memory of a killed postmaster; the start waits for it."""
    launcher = launcher_of(used)
    urls = await launcher.start()
    connection = await asyncpg.connect(urls.app)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    os.kill(launcher.pid, signal.SIGKILL)
    starting = asyncio.create_task(launcher.start())
    log = used / "pg" / "postgres.log"
    async with asyncio.timeout(120):
        while "pre-existing shared memory block" not in log.read_text():
            await asyncio.sleep(0.05)
    assert not starting.done()
    os.kill(backend, signal.SIGCONT)
    urls = await asyncio.wait_for(starting, 240)
    assert await ask(urls.app) == "interlock_app"
    connection.terminate()
    await launcher.stop()


async def test_a_pid_that_now_belongs_to_somebody_else_is_not_adopted(used):
    launcher = launcher_of(used)
    await launcher.start()
    pid_file = used / "pg" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill_store(launcher)
    await launcher.wait_dead()
    stranger = subprocess.Popen(["sleep", "3600"])
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        await launcher.start()
        assert launcher.pid != stranger.pid
        await launcher.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_an_initdb_that_was_cut_short_is_done_again(directory):
    cluster = Cluster(directory)
    who, binaries = launcher_of(directory)._prepare()
    cluster.data.rename(cluster.pg / "data.new")
    (cluster.pg / "data.new" / "PG_VERSION").unlink()
    launcher = launcher_of(directory)
    assert await ask((await launcher.start()).ops) == "interlock_ops"
    assert not (cluster.pg / "data.new").exists()
    await launcher.stop()
    assert who.uid == cluster.data.stat().st_uid
    assert binaries.version


async def test_a_start_that_died_before_its_roles_makes_them_at_the_next(directory):
    launcher = launcher_of(directory)
    who, binaries = launcher._prepare()
    await launcher._launch(who, binaries, launcher._cluster.socket_folder(who))
    kill_store(launcher)
    await launcher.wait_dead()
    assert await ask((await launcher.start()).app) == "interlock_app"
    await launcher.stop()


@pytest.mark.parametrize("name", ["with blanks and 'quotes\" %41", "d" * 120, "a,b"])
async def test_in_an_odd_or_very_long_path(directory, template, name):
    path = directory / name
    path.mkdir(mode=0o711)
    subprocess.run(["cp", "-a", template, path / "pg"], check=True)
    launcher = launcher_of(path)
    urls = await launcher.start()
    try:
        assert await ask(urls.app) == "interlock_app"
        named = path / "pg" / "socket"
        is_short = " " not in name
        assert named.exists() == is_short
        if is_short:
            folder = Path(named.read_text().strip())
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert len(str(folder)) < 60
    finally:
        await launcher.stop()
        cluster_short = path / "pg" / "socket"
        assert not cluster_short.exists() or not Path(cluster_short.read_text().strip()).exists()
        shutil.rmtree(path)


@needs_root
async def test_root_drops_to_a_uid_that_can_reach_the_folder(used):
    launcher = launcher_of(used)
    await launcher.start()
    status = Path(f"/proc/{launcher.pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert "Groups:\t \n" in status or "Groups:\t\n" in status
    assert (used.stat().st_uid, stat.S_IMODE(used.stat().st_mode)) == (0, 0o711)
    await launcher.stop()


@needs_root
async def test_root_in_a_closed_folder_runs_the_store_in_a_user_namespace(directory):
    directory.chmod(0o700)
    launcher = launcher_of(directory)
    urls = await launcher.start()
    assert "Uid:\t0\t" in Path(f"/proc/{launcher.pid}/status").read_text()
    assert Path(f"/proc/{launcher.pid}/uid_map").read_text().split() == ["65534", "0", "1"]
    assert await ask(urls.app) == "interlock_app"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await launcher.stop()


@needs_root
async def test_root_is_refused_when_neither_way_is_open(directory, monkeypatch):
    directory.chmod(0o700)
    monkeypatch.setattr(runas_module.shutil, "which", lambda _: None)
    with pytest.raises(BrokenWorldError) as refused:
        await launcher_of(directory).start()
    assert refused.value.code == "store_root_refused"
    assert str(directory) in refused.value.remedy


@needs_root
async def test_binaries_that_the_store_cannot_read_are_copied_with_their_layout(directory, monkeypatch):
    closed = directory / "closed"
    real = find_binaries()
    hidden = copied(real, closed / "bin")
    layout = (hidden.folder.parent, *(closed / "bin" / each.name for each in real.layout[1:]))
    closed.chmod(0o700)
    monkeypatch.setattr(
        binaries_module, "_candidates", lambda: iter([Binaries(hidden.folder, real.version, "a closed wheel", layout)])
    )
    home = directory / "home"
    home.mkdir(mode=0o711)
    launcher = launcher_of(home)
    urls = await launcher.start()
    try:
        program = Path(f"/proc/{launcher.pid}/exe").readlink()
        assert program.is_relative_to(home / "pg" / f"bin-{real.version}")
        assert await ask(urls.app) == "interlock_app"
    finally:
        await launcher.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


AS_A_USER = """
import asyncio, os, sys
from functools import partial
from pathlib import Path
from interlock.foundation.clock import SystemClock
from interlock.foundation.store import Launcher
async def main():
    launcher = Launcher(Path(sys.argv[1]), SystemClock(), env={})
    await launcher.start()
    print(os.geteuid(), oct(Path(sys.argv[1]).stat().st_mode & 0o777), launcher.kind)
    await launcher.stop()
asyncio.run(main())
"""


@needs_root
def test_a_plain_user_starts_a_store_of_his_own(directory):
    """Root is the odd case; here root becomes a user, with any Python that this user can reach."""
    os.chown(directory, 65534, 65534)
    options = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "capture_output": True, "text": True}
    run = partial(subprocess.run, check=False, **options)
    search = os.pathsep.join(each for each in sys.path if each)
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            probe = run([python, "-c", "import asyncpg"], env={"PYTHONPATH": search})
        except OSError:
            continue
        if probe.returncode == 0:
            break
    else:
        pytest.skip("no Python with the packages of the platform that another user can reach")
    command = [python, "-B", "-c", AS_A_USER, str(directory / "mine")]
    done = run(command, env={"PYTHONPATH": search, "PATH": "/usr/bin:/bin"})
    assert (done.stdout.split(), done.stderr) == (["65534", "0o700", "launched"], "")


async def test_a_folder_of_somebody_else_or_a_link_is_refused(directory):
    (directory / "elsewhere").mkdir()
    (directory / "pg").symlink_to(directory / "elsewhere")
    with pytest.raises(BrokenWorldError) as refused:
        await launcher_of(directory).start()
    assert refused.value.code == "unsafe_data_directory"


async def test_lost_passwords_are_named_and_never_made_anew(used):
    launcher = launcher_of(used)
    launcher._prepare()
    (used / "pg" / "roles.json").unlink()
    with pytest.raises(BrokenWorldError) as refused:
        await launcher_of(used).start()
    assert refused.value.code == "store_passwords_lost"


async def test_a_server_that_cannot_start_says_why(used):
    launcher = launcher_of(used)
    launcher._prepare()
    (used / "pg" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(BrokenWorldError) as refused:
        await launcher.start()
    assert refused.value.code == "store_start_failed"
    assert "no_such_setting" in refused.value.finding
    assert launcher.pid is None


async def test_without_the_wheel_a_postgresql_of_the_system_does(directory, monkeypatch):
    monkeypatch.setattr(binaries_module, "_from_wheel", lambda: None)
    try:
        found = find_binaries()
    except BrokenWorldError:
        pytest.skip("this machine has no PostgreSQL of its own")
    launcher = launcher_of(directory)
    try:
        if not has_vector(found):
            with pytest.raises(BrokenWorldError) as refused:
                await launcher.start()
            assert refused.value.code == "vector_missing"
            return
        urls = await launcher.start()
        await migrate(urls, clock=CLOCK)
        async with opened(urls) as store:
            assert store.is_up
        assert (await ask(urls.app, "SHOW server_version")).startswith(f"{found.major}.")
        monkeypatch.undo()
        # With the wheel back, the folder of an older major still asks for the binaries of its own.
        assert await launcher_of(directory).start() == urls
    finally:
        await launcher.stop()


def has_vector(found):
    return (Path("/usr/share/postgresql") / str(found.major) / "extension" / "vector.control").is_file()


def test_without_any_binaries_the_three_remedies_are_named(monkeypatch):
    monkeypatch.setattr(binaries_module, "_candidates", lambda: iter(()))
    with pytest.raises(BrokenWorldError) as refused:
        find_binaries()
    assert refused.value.code == "store_not_found"
    assert all(word in refused.value.remedy for word in ("DATABASE_URL", "pip install", "postgresql"))


def test_a_folder_of_another_major_is_not_opened_with_these_binaries():
    with pytest.raises(BrokenWorldError) as refused:
        find_binaries(9)
    assert refused.value.code == "store_upgrade_needed"


async def test_database_url_comes_first_and_acts_through_set_role(used):
    """The login of an external database makes the roles itself where it may, and is told what to run where not."""
    server = launcher_of(used)
    urls = await server.start()
    try:
        for statement in (
            "CREATE ROLE outsider LOGIN CREATEROLE PASSWORD 'x'",
            "CREATE DATABASE outside OWNER outsider",
            "GRANT interlock_owner, interlock_app, interlock_ops, interlock_read TO outsider",
            "CREATE ROLE stranger LOGIN PASSWORD 'x'",
        ):
            await ask(urls.superuser, statement)
        external = urls.superuser.replace("interlock_superuser", "outsider").replace("/interlock?", "/outside?")
        password = json.loads((used / "pg" / "roles.json").read_text())["interlock_superuser"]
        external = external.replace(password, "x")
        launcher = Launcher(used / "unused", CLOCK, env={"DATABASE_URL": external})
        with pytest.raises(BrokenWorldError) as refused:
            await launcher.start()
        assert refused.value.code == "vector_missing"
        await ask(urls.superuser.replace("/interlock?", "/outside?"), "CREATE EXTENSION vector")
        theirs = await launcher.start()
        assert (launcher.kind, launcher.pid) == ("external", None)
        assert await ask(theirs.app, "SELECT session_user || ' as ' || current_user") == "outsider as interlock_app"
        await migrate(theirs, clock=CLOCK)
        async with opened(theirs) as store:
            assert store.is_up
        assert not (used / "unused").exists()
        stranger = external.replace("outsider", "stranger")
        with pytest.raises(BrokenWorldError) as refused:
            await Launcher(used / "unused", CLOCK, env={"DATABASE_URL": stranger}).start()
        assert refused.value.code == "store_roles_missing"
    finally:
        await server.stop()
