"""The sandbox holds what it promises, ends what it starts, and does not run where it cannot be had."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.agents.adapters import launcher as launchers
from interlock.agents.adapters import state_folder as state_folders
from interlock.agents.adapters.box import Box
from interlock.agents.adapters.launcher import Interpreter, Launcher
from interlock.agents.adapters.namespaces import Killer, members, this_machine
from interlock.agents.adapters.probes import NAMES
from interlock.agents.adapters.sandbox import BubblewrapSandbox
from interlock.agents.adapters.seccomp import filter_for
from interlock.agents.adapters.slots import MachineSlots
from interlock.agents.domain.types import LimitSet, ProcessRecord, SandboxCommand, SandboxUnavailableError
from tests.agents.worlds import CLOCK, assert_empty

DAEMON = """python3 - <<'P'
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        [os.close(each) for each in range(3)]
        time.sleep(300)
    os._exit(0)
P
echo left"""


async def test_every_probe_holds_and_is_named(machine):
    report = await machine.sandbox.probe(machine.slot)
    assert report.launcher in {"wheel", "system"}
    assert [probe.name for probe in report.probes] == list(NAMES)
    assert all(probe.is_held for probe in report.probes)


async def test_a_program_sees_its_tree_and_little_else(machine):
    place, _ = await machine.repo({"a.txt": "one\n"})
    ran = await machine.shell(place, "cat a.txt; pwd; ls /; id -u; env | sort; python --version; python3 -c 'print(1)'")
    lines = ran.output.decode().splitlines()
    assert lines[:2] == ["one", "/task"]
    assert "root" not in lines
    assert "home" not in lines
    assert str(place.slot.uid) in lines
    environment = {line.split("=")[0] for line in lines if "=" in line}
    assert environment <= {"HOME", "LANG", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE", "_", "SHLVL", "OLDPWD"}
    assert "1" in lines
    assert ran.exit_code == 0


async def test_what_a_program_writes_belongs_to_its_slot(machine):
    place, _ = await machine.repo()
    await machine.shell(place, "mkdir d; echo x > d/y; ln -s y d/l")
    found = [place.work / "d", place.work / "d" / "y", place.work / "d" / "l"]
    assert {os.lstat(path).st_uid for path in found} == {place.slot.uid}


@pytest.mark.parametrize("name", ["exit 7", "kill -9 $$"])
async def test_how_a_program_ends_is_told(machine, name):
    place, _ = await machine.repo()
    ran = await machine.shell(place, name)
    assert ran.exit_code == {"exit 7": 7, "kill -9 $$": 137}[name]
    assert ran.stopped_by is None


async def test_a_daemon_that_was_left_behind_does_not_outlive_its_step(machine):
    place, _ = await machine.repo()
    ran = await machine.shell(place, DAEMON)
    assert ran.output == b"left\n"
    assert ran.proof.kind == "namespace_empty"
    assert_empty(ran.proof.pidns)


async def test_a_program_past_its_time_is_ended_with_all_it_started(machine):
    place, _ = await machine.repo()
    ran = await machine.shell(place, f"trap '' TERM; {DAEMON}; sleep 60", timeout_s=0.5)
    assert (ran.stopped_by, ran.exit_code) == ("timeout", None)
    assert_empty(ran.proof.pidns)


async def test_output_beyond_the_limit_is_cut_and_the_program_goes_on(machine):
    place, _ = await machine.repo()
    ran = await machine.shell(place, "yes | head -c 3000000; echo end > done")
    assert ran.is_cut
    assert len(ran.output) == LimitSet().output_bytes
    assert (Path(place.work) / "done").exists()


async def test_processes_are_bounded_where_the_user_owns_many_already(machine):
    place, _ = await machine.repo()
    code = "import os,time\nfor n in range(500):\n  try:\n    os.fork() or (time.sleep(600), os._exit(0))\n"
    code += "  except OSError as e: print(n, e.errno, flush=True); break"
    who = {"user": place.slot.uid, "group": place.slot.gid, "extra_groups": []} if os.geteuid() == 0 else {}
    crowd = [subprocess.Popen(["/bin/sleep", "3600"], **who) for _ in range(70)]
    try:
        ran = await machine.shell(place, f"python3 -c '{code}'")
    finally:
        for each in crowd:
            each.kill()
            each.wait()
    number, error = ran.output.split()
    assert 40 < int(number) < 64
    assert int(error) == 11
    assert_empty(ran.proof.pidns)


async def test_a_fork_bomb_ends_with_its_time(machine):
    place, _ = await machine.repo()
    bomb = "import os\nwhile 1:\n  try: os.fork()\n  except OSError: pass"
    ran = await machine.shell(place, f"python3 -c '{bomb}'", timeout_s=1.0)
    assert ran.stopped_by == "timeout"
    assert_empty(ran.proof.pidns)


async def test_memory_of_all_processes_together_is_bounded(machine):
    place, _ = await machine.repo()
    hog = "python3 -c 'x=bytearray(90<<20); import time; time.sleep(600)'"
    ran = await machine.shell(place, f"{hog} & {hog} & wait", limits=LimitSet(memory_bytes=128 << 20))
    assert ran.stopped_by == "memory_exceeded"
    assert_empty(ran.proof.pidns)


async def test_a_tree_beyond_its_size_ends_the_program_that_writes_it(machine):
    place, _ = await machine.repo()
    write = "for n in 1 2 3 4 5 6 7 8 9; do head -c 8000000 /dev/urandom > f$n; sleep 0.1; done; sleep 110"
    ran = await machine.shell(place, write, limits=LimitSet(tree_bytes=20 << 20), timeout_s=100)
    assert ran.stopped_by == "tree_too_large"


async def test_a_cancelled_run_leaves_no_process_and_tells_its_proof_again(machine):
    place, _ = await machine.repo()
    records = []

    async def note(record):
        records.append(record)

    started = asyncio.ensure_future(machine.shell(place, f"{DAEMON}; sleep 600", on_start=note))
    while not (records and len(members(records[0].pidns_inode)) > 3):
        await asyncio.sleep(0.01)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert_empty(records[0].pidns_inode)
    proof = await machine.sandbox.kill(records[0])
    assert (proof.kind, proof.pidns) == ("namespace_empty", records[0].pidns_inode)
    assert proof.killed >= 2


async def test_nothing_runs_before_it_is_recorded(machine):
    place, _ = await machine.repo()

    async def fail(record):
        await asyncio.sleep(0.2)
        raise ConnectionError("the store is away")

    with pytest.raises(ConnectionError):
        await machine.shell(place, "echo ran > ran", on_start=fail)
    assert not (Path(place.work) / "ran").exists()


async def test_a_failing_reader_of_output_ends_the_run(machine):
    place, _ = await machine.repo()

    async def fail(piece):
        raise ConnectionError(len(piece))

    # By itself it would go on for longer than this test may take.
    limits = LimitSet(timeout_s=3_600.0)
    command = SandboxCommand(("/bin/sh", "-c", "echo x; sleep 3600"), place.slot, cwd="/tmp", limits=limits)
    with pytest.raises(ConnectionError):
        await machine.sandbox.run(command, on_bytes=fail)


async def test_another_worker_kills_by_the_record_and_by_nothing_else(machine):
    place, _ = await machine.repo()
    records = []

    async def note(record):
        records.append(record)

    running = asyncio.ensure_future(machine.shell(place, "sleep 600", on_start=note))
    while not records or len(members(records[0].pidns_inode)) < 3:
        await asyncio.sleep(0.01)
    stranger = Killer(CLOCK, this_machine())
    (record,) = records
    other_boot = ProcessRecord(record.host_id, "other", record.pid, record.pid_start, record.pidns_inode, record.uid)
    assert (await stranger.kill(other_boot)).kind == "not_running"
    assert members(record.pidns_inode)
    # A reused pid: the start time and the namespace of the process that has it now are others.
    own = ProcessRecord(record.host_id, record.boot_id, os.getpid(), record.pid_start, 1, record.uid)
    assert (await stranger.kill(own)).kind == "not_running"
    proof = await stranger.kill(record)
    assert (proof.kind, proof.pidns) == ("namespace_empty", record.pidns_inode)
    ran = await running
    assert ran.exit_code in {None, 137}
    assert_empty(record.pidns_inode)
    # Until its parent has reaped it, a dead process still has its number.
    while (await stranger.kill(record)).kind != "not_running":
        await asyncio.sleep(0.05)


def test_a_worker_that_is_killed_takes_its_sandboxes_along(machine):
    """By `kill -9`, at many moments, also while the launcher still sets up."""
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.agents.worlds import *\n"
        "from interlock.agents.domain.types import *\n"
        "from interlock.agents.adapters.sandbox import BubblewrapSandbox\n"
        f"state, slot = Path({str(machine.state)!r}), Slot{(0, machine.slot.uid, machine.slot.gid)!r}\n"
        "sandbox = BubblewrapSandbox(state, CLOCK)\n"
        "async def main():\n"
        "    await sandbox.probe(slot)\n"
        "    async def note(record): print(record.pidns_inode, flush=True)\n"
        "    long = SandboxCommand(('/bin/sleep', '900'), slot, cwd='/tmp', limits=LimitSet(timeout_s=900.0))\n"
        "    await sandbox.run(long, on_start=note)\n"
        "asyncio.run(main())\n"
    )
    for delay_s in (0.0, 0.001, 0.003, 0.01, 0.05):
        worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        pidns = int(worker.stdout.readline())
        time.sleep(delay_s)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        deadline = time.monotonic() + 240
        while members(pidns) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert_empty(pidns)


async def test_no_sandbox_blocks_and_no_setting_changes_that(machine, monkeypatch):
    """Both programs hidden: every run is refused with the probe, its errno and what would mend it."""
    monkeypatch.setattr(launchers, "_SYSTEM", Path("/nonexistent/bwrap"))
    monkeypatch.setattr(launchers, "_wheel", lambda: None)
    for name in ("INTERLOCK_NO_SANDBOX", "INTERLOCK_AGENTS__SANDBOX", "BWRAP"):
        monkeypatch.setenv(name, "off")
    sandbox = BubblewrapSandbox(machine.state, CLOCK)
    with pytest.raises(SandboxUnavailableError):
        await sandbox.run(SandboxCommand(("/bin/true",), machine.slot, cwd="/tmp"))
    report = await sandbox.probe(machine.slot)
    assert report.launcher is None
    assert [probe.name for probe in report.probes] == list(NAMES)
    assert (report.failed.name, report.failed.errno) == ("bwrap_starts", "ENOENT")
    assert report.failed.fix
    with pytest.raises(SandboxUnavailableError) as refused:
        await sandbox.run(SandboxCommand(("/bin/true",), machine.slot, cwd="/tmp"))
    assert refused.value.probe.name == "bwrap_starts"


async def test_a_launcher_that_does_not_hold_is_not_used(machine, monkeypatch, tmp_path):
    """A program that starts everything without any namespace passes for no sandbox."""
    fake = machine.state / "bin" / "fake"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr("interlock.agents.adapters.sandbox.find_launchers", lambda _: [Launcher("system", fake)])
    monkeypatch.setattr("interlock.agents.adapters.box._SETUP_S", 0.3)
    sandbox = BubblewrapSandbox(machine.state, CLOCK)
    report = await sandbox.probe(machine.slot)
    assert report.launcher is None
    assert report.failed.name == "bwrap_starts"
    with pytest.raises(SandboxUnavailableError):
        await sandbox.run(SandboxCommand(("/bin/true",), machine.slot, cwd="/tmp"))


@pytest.mark.parametrize(
    ("left_out", "probe"),
    [
        ("--unshare-all", "no_network"),
        ("--die-with-parent", "kill_after_parent"),
    ],
)
async def test_a_launcher_without_one_property_fails_at_that_probe(machine, monkeypatch, left_out, probe):
    """The options come through a descriptor, so the launcher's own options are what is changed."""
    real = launchers.options

    def weaker(command, interpreter):
        made = [each for each in real(command, interpreter) if each != left_out]
        return ["--unshare-pid", "--unshare-ipc", "--unshare-uts", *made] if left_out == "--unshare-all" else made

    monkeypatch.setattr("interlock.agents.adapters.box.options", weaker)
    monkeypatch.setattr("interlock.agents.adapters.probes._EMPTY_S", 0.5)
    report = await BubblewrapSandbox(machine.state, CLOCK).probe(machine.slot)
    assert report.launcher is None
    assert report.failed.name == probe


async def test_a_sandbox_that_cannot_be_set_up_is_an_outage_and_not_a_result(machine):
    place, _ = await machine.repo()
    shutil.rmtree(place.work)
    with pytest.raises(SandboxUnavailableError) as refused:
        await machine.shell(place, "echo hi")
    assert refused.value.probe.errno == "ENOENT"


async def test_a_program_can_be_run_without_the_host_s_python(machine, monkeypatch):
    """A copy of the worker's interpreter is made once and mounted where the original lies."""
    monkeypatch.setattr(launchers, "_SYSTEM_PYTHON", Path("/nonexistent/python3"))
    interpreter = launchers.find_interpreter(machine.state)
    assert isinstance(interpreter, Interpreter)
    assert (interpreter.copy is None) == Path(sys.base_prefix).is_relative_to("/usr")
    found = launchers.find_launchers(machine.state)[0]
    box = Box(found, interpreter, filter_for(os.uname().machine), CLOCK, this_machine())
    code = "import json, unittest, sys; print(sys.version_info[:2] == tuple(json.loads(sys.argv[1])))"
    version = f"[{sys.version_info.major}, {sys.version_info.minor}]"
    ran = await box.run(SandboxCommand(("/opt/bin/python", "-c", code, version), machine.slot, cwd="/tmp"))
    assert ran.output == b"True\n"


def test_two_workers_never_share_a_slot():
    if os.geteuid() != 0:
        pytest.skip("a user has one uid")
    first, second = MachineSlots(2), MachineSlots(2)
    taken = [first.take(), second.take(), first.take(), second.take()]
    assert len({slot.uid for slot in taken}) == 4
    assert first.take() is None
    again = taken[0]
    first.give_back(again)
    assert second.statistics() == {"slots_max": 2, "slots_held": 2}
    second.give_back(taken[1])
    third = second.take()
    assert third.uid in {again.uid, taken[1].uid}
    for slots, slot in ((first, taken[2]), (second, taken[3]), (second, third)):
        slots.give_back(slot)


def test_the_state_folder_is_where_the_slot_can_reach_it(machine, tmp_path):
    if os.geteuid() != 0:
        assert machine.state == machine.data / "agents"
        return
    # The data directory is closed to the dropped uid, so the folder lies elsewhere and is ours.
    assert machine.state.parent == Path("/var/tmp")
    assert machine.state.stat().st_mode & 0o777 == 0o711
    open_data = Path("/var/tmp") / f"interlock-open-{os.getpid()}"
    open_data.mkdir(mode=0o711)
    try:
        assert state_folders.state_folder(open_data) == open_data / "agents"
    finally:
        shutil.rmtree(open_data)


async def test_arguments_and_secrets_are_not_in_the_list_of_processes(machine):
    place, _ = await machine.repo()
    records = []

    async def note(record):
        records.append(record)

    secret = {"TOKEN": "value-that-nobody-reads"}
    running = asyncio.ensure_future(
        machine.shell(place, 'test -n "$TOKEN"; sleep 0.5', on_start=note, environment=secret)
    )
    while not records:
        await asyncio.sleep(0.01)
    listed = b"".join(map(_content, Path("/proc").glob("[0-9]*/cmdline")))
    assert secret["TOKEN"].encode() not in listed
    assert (await running).exit_code == 0


def _content(path):
    """What a file says; one of a process that ended meanwhile says nothing."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
