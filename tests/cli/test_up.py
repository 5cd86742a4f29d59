"""The platform as its operator handles it: up, down, a second up, kills, misspelt settings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from interlock.foundation import paths
from interlock.foundation.supervisor import DataDirectory
from interlock.foundation.supervisor.leftovers import leftovers
from tests.journeys.processes import listening_sockets, lives
from tests.support.platform import PATIENT

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("up")]
# How patient the tests are; how fast a role is back is a figure of `make bench B=restart`.
BACK_S = 180.0


def interlock(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "interlock", *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=240, env={**os.environ, **PATIENT, **(env or {})}, check=False
    )


@contextmanager
def up(directory: DataDirectory, *flags: str):
    argv = [sys.executable, "-m", "interlock", "up", "--data", str(directory.root), "--port", "0", *flags]
    with (directory.root.parent / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | PATIENT)
    try:
        line = process.stdout.readline().split()
        assert line[:1] == ["ready"], (directory.root.parent / "log").read_text()[-4000:]
        yield process, line[1] if len(line) > 1 else None
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=240)
        process.stdout.close()


@pytest.fixture(scope="module")
def directory():
    folder = Path(tempfile.mkdtemp(prefix="interlock up ", dir="/tmp"))
    folder.chmod(0o711)
    yield DataDirectory(folder / "a place")
    interlock("down", "--data", str(folder / "a place"))
    shutil.rmtree(folder)


def pids(directory: DataDirectory) -> dict[str, int]:
    found = {file.stem: paths.read_pid(file) for file in directory.run.glob("*.pid")}
    return {name: pid for name, pid in found.items() if pid is not None}


def readiness(url: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError as error:
        return 0, {"error": str(error)}


def until(fact, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_role_comes_back_and_nothing_is_left_after_down(directory):
    with up(directory, "--engine", "none", "--edge-workers", "2") as (process, url):
        assert directory.url_file.read_text() == f"{url}\n"
        assert set(pids(directory)) == {
            "supervisor",
            "store-0",
            "edge-0",
            "edge-1",
            "control-0",
            "worker-0",
            "scheduler-0",
        }
        assert until(lambda: readiness(url) == (200, {"ready": True, "degraded": []}), BACK_S)

        second = interlock("up", "--data", str(directory.root), "--port", "0")
        assert second.returncode == 1
        assert (
            f"data_directory_in_use: {directory.root} is in use by the supervisor with pid {process.pid}"
            in second.stderr
        )

        for name in ("control-0", "edge-1"):
            before = pids(directory)[name]
            os.kill(before, signal.SIGKILL)
            assert until(lambda name=name, before=before: pids(directory).get(name) not in {None, before}, BACK_S), name
            assert until(lambda: readiness(url) == (200, {"ready": True, "degraded": []}), BACK_S), name

        before = pids(directory)["store-0"]
        os.kill(before, signal.SIGKILL)
        assert until(lambda: pids(directory).get("store-0") not in {None, before}, BACK_S)
        assert until(lambda: readiness(url) == (200, {"ready": True, "degraded": []}), BACK_S)

        # The state is told each second; the command is about what there is.
        listed = ("orgs", "list", "--data", str(directory.root), "--json")
        assert until(lambda: interlock(*listed).returncode == 0, BACK_S)
        assert "default" in {row["name"] for row in json.loads(interlock(*listed).stdout)["data"]}
        all_pids = pids(directory)
        down = interlock("down", "--data", str(directory.root))
        assert down.returncode == 0, down.stderr
        assert process.wait(240) == 0
    assert not [name for name, pid in all_pids.items() if lives(pid)]
    assert sorted(entry.name for entry in directory.run.iterdir()) == ["kill.d", "lock"]


def test_a_killed_supervisor_then_up_has_the_same_data_and_no_orphans(directory):
    with up(directory, "--engine", "none", "--edge-workers", "1") as (process, _):
        made = interlock("orgs", "create", "survivor", "--data", str(directory.root), "--json")
        assert made.returncode == 0, made.stderr
        before = pids(directory)
        process.kill()
    with up(directory, "--engine", "none", "--edge-workers", "1"):
        listed = json.loads(interlock("orgs", "list", "--data", str(directory.root), "--json").stdout)["data"]
        assert json.loads(made.stdout)["id"] in {row["id"] for row in listed}
        assert not [name for name, pid in before.items() if name != "store-0" and lives(pid)]
        after = pids(directory)
        assert interlock("down", "--data", str(directory.root)).returncode == 0
    assert not [name for name, pid in (before | after).items() if lives(pid)]
    assert leftovers(directory) == []


def test_without_an_edge_no_port_is_opened(directory):
    with up(directory, "--roles", "control") as (_, url):
        assert url is None
        assert not directory.url_file.exists()
        assert set(pids(directory)) == {"supervisor", "store-0", "control-0"}
        assert interlock("doctor", "--data", str(directory.root)).returncode == 0
        assert not any(listening_sockets(pid) for pid in pids(directory).values())


def test_with_an_engine_there_is_one_listening_socket(directory):
    with up(directory, "--edge-workers", "2"):
        held = {name: set(listening_sockets(pid)) for name, pid in pids(directory).items()}
        assert len(set().union(*held.values())) == 1
        assert {name for name, inodes in held.items() if inodes} == {"supervisor", "edge-0", "edge-1"}


def test_the_audit_chain_verifies_with_the_platform_stopped(directory):
    with up(directory, "--roles", "control"):
        pass
    found = interlock("audit", "verify", "--data", str(directory.root), "--json")
    assert found.returncode == 0, found.stderr
    verdict = json.loads(found.stdout)
    assert verdict["ok"]
    assert verdict["events"] > 0
    assert not directory.pid_file("store").exists()


def test_a_busy_port_is_said_and_nothing_is_left_running(directory):
    with up(directory, "--engine", "none", "--edge-workers", "1") as (_, url):
        port = url.rsplit(":", 1)[1]
        other = directory.root.with_name("other")
        found = interlock("up", "--data", str(other), "--port", port)
        assert found.returncode == 1
        assert f"port_in_use: port {port} on 127.0.0.1 is taken by another program" in found.stderr
        assert not (other / "pg" / "data" / "postmaster.pid").exists()


def test_every_setting_names_its_source_and_a_misspelt_one_the_right_name(tmp_path):
    file = tmp_path / "interlock.toml"
    file.write_text("[supervisor]\n\nfailed_retry_s = 20\n")
    found = interlock("config", "show", "--json", "--config", str(file), env={"INTERLOCK_SUPERVISOR__DEATHS_MAX": "9"})
    assert found.returncode == 0, found.stderr
    rows = {row["name"]: row for row in json.loads(found.stdout)["data"]}
    assert all(row["source"] for row in rows.values())
    assert rows["supervisor.failed_retry_s"]["source"] == "file:3"
    assert rows["supervisor.failed_retry_s"]["value"] == 20
    assert rows["supervisor.deaths_max"]["source"] == "env:INTERLOCK_SUPERVISOR__DEATHS_MAX"
    assert rows["supervisor.backoff_max_s"]["source"] == "default"
    wrong = interlock("config", "show", env={"INTERLOCK_SUPERVISOR__DEATHS_MAXX": "9"})
    assert wrong.returncode == 2
    assert "did you mean supervisor.deaths_max?" in wrong.stderr
