"""The warm process: real forks, seen from a supervisor's loop in a process of its own; no platform is needed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("forker.py")
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks are watched through pidfds")
pytestmark = needs_pidfd


def told(scene: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), scene, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_fork_has_its_own_session_title_output_and_environment():
    seen = told("speak")
    child = seen["child"]
    assert child["pid"] == seen["pid"] == child["session"] == child["group"]
    assert child["pid"] not in {seen["supervisor"], seen["warm"]}
    assert child["title"] == "interlock worker-7"
    assert child["env"] == "moon"
    assert child["link"] == "pong"
    assert child["descriptors"] <= 8
    assert seen["status"] == 5


def test_a_signal_is_its_status_and_a_crash_prints_its_stack():
    assert told("killed")["status"] == -signal.SIGKILL
    crashed = told("crash")
    assert crashed["status"] == 1
    assert "RuntimeError: the sky fell" in crashed["output"]


def test_forks_asked_for_side_by_side_are_told_apart():
    seen = told("many")
    assert sorted(seen["statuses"]) == list(range(12))
    assert len(set(seen["pids"])) == 12


def test_the_listening_socket_is_shared():
    assert told("listen")["answers"] == ["edge-0", "edge-1"]


def test_a_killed_warm_process_takes_nobody_with_it_and_commands_take_over():
    seen = told("orphan")
    assert seen["lived_on"]
    assert seen["death_seen"]
    assert seen["next"] == "by command"


def test_the_warm_process_ends_with_its_supervisor():
    seen = told("leave")
    with pytest.raises(ProcessLookupError):
        _until_gone(seen["warm"])


def _until_gone(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        import select  # noqa: PLC0415

        assert select.select([fd], [], [], 240)[0], "it still lives"
        raise ProcessLookupError(pid)
    finally:
        os.close(fd)
