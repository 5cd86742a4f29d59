"""What is left when the supervisor itself is killed, or told to end by a signal."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from interlock.foundation import paths
from interlock.foundation.supervisor import DataDirectory
from interlock.foundation.supervisor.leftovers import leftovers
from tests.foundation.supervisor.conftest import _lives

ROOT = Path(__file__).parents[3]


@contextmanager
def boss(folder: Path, *ways: str):
    argv = [sys.executable, "-m", "tests.foundation.supervisor.boss", str(folder), *ways]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.terminate()
        process.communicate(timeout=240)


def gone(pid: int, within_s: float = 240.0) -> bool:
    until = time.monotonic() + within_s
    while _lives(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not _lives(pid)


def pids(directory: DataDirectory) -> dict[str, int]:
    return {file.stem: paths.read_pid(file) for file in directory.run.glob("*.pid")}


def test_a_killed_supervisor_leaves_no_role_behind_and_the_next_one_adopts_the_store(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    with boss(directory.root, "plain", "plain") as first:
        before = pids(directory)
        assert set(before) == {"supervisor", "store-0", "worker-0", "worker-1"}
        first.kill()
        assert gone(before["worker-0"])
        assert gone(before["worker-1"])
        assert _lives(before["store-0"])
    with boss(directory.root, "plain") as second:
        after = pids(directory)
        assert after["store-0"] == before["store-0"]
        assert after["worker-0"] != before["worker-0"]
        second.terminate()
        assert second.wait(240) == 0
    assert gone(after["worker-0"])
    assert gone(after["store-0"])


def test_a_role_that_outlives_its_supervisor_is_ended_before_the_next_start(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    with boss(directory.root, "stubborn") as first:
        old = pids(directory)["worker-0"]
        # Standing still it cannot end by itself, however late we look.
        os.kill(old, signal.SIGSTOP)
        first.kill()
        first.wait()
        assert leftovers(directory) == [old]
    with boss(directory.root, "plain"):
        assert gone(old)
        assert pids(directory)["worker-0"] != old


def test_a_number_in_a_stale_pid_file_is_not_taken_for_a_role(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.write_pid("worker", 0, os.getpid())
    assert leftovers(directory) == []
    with boss(directory.root, "plain"):
        assert pids(directory)["worker-0"] != os.getpid()


def test_sigterm_drains_and_exits_0(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    with boss(directory.root, "plain") as running:
        before = pids(directory)
        running.send_signal(signal.SIGTERM)
        assert running.wait(240) == 0
        assert not any(_lives(pid) for pid in before.values() if pid != running.pid)
