"""Marks of processes: who has ended is told from who lives, who stands still, and whom this kernel does not know."""

import os
import signal
import subprocess
import sys

import pytest

from interlock.foundation import lives

MARKS = "from interlock.foundation.lives import mark; import sys; print(mark(), flush=True); sys.stdin.read()"


@pytest.fixture
def process():
    """A process that says its mark and then waits."""
    running = subprocess.Popen([sys.executable, "-c", MARKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    running.said = running.stdout.readline().strip()
    yield running
    running.kill()
    running.communicate()


def test_who_was_killed_is_over_and_who_stands_still_is_not(process):
    assert not lives.is_over(process.said)
    os.kill(process.pid, signal.SIGSTOP)
    assert not lives.is_over(process.said)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert lives.is_over(process.said)


def test_of_a_process_of_another_start_or_another_view_of_numbers_nothing_is_known(process, monkeypatch, tmp_path):
    process.kill()
    process.wait()
    assert lives.is_over(process.said)
    other = tmp_path / "boot_id"
    other.write_text("of another start")
    monkeypatch.setattr(lives, "_BOOT", other)
    assert not lives.is_over(process.said)
    monkeypatch.setattr(lives, "_BOOT", tmp_path / "absent")
    assert lives.mark() == ""
    assert not lives.is_over(process.said)


@pytest.mark.parametrize("number", ["", "0", "-1", "-4", "x", "1e3", "٣", str(1 << 80)])
def test_what_names_no_process_is_never_over(number):
    here = lives.mark().partition(".")[0]
    assert not lives.is_over(f"{here}.{number}")
    assert not lives.is_over(number)


def test_this_process_is_not_over():
    assert lives.mark()
    assert not lives.is_over(lives.mark())
    assert not lives.is_over("")
