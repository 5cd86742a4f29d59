"""A worker's machine for tests: state folder, slot, probed sandbox, trees and tools, without store or gateway."""

import asyncio
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from interlock.agents.adapters.git import GitTrees
from interlock.agents.adapters.namespaces import members
from interlock.agents.adapters.sandbox import BubblewrapSandbox
from interlock.agents.adapters.slots import MachineSlots
from interlock.agents.adapters.state_folder import state_folder
from interlock.agents.adapters.tools import TaskTools
from interlock.agents.domain.policy import CODE, World
from interlock.agents.domain.ports import Bench, Commit
from interlock.agents.domain.tools import parse_call
from interlock.agents.domain.types import (
    FilesRepo,
    LimitSet,
    Mount,
    SandboxCommand,
    SandboxUnavailableError,
    ToolCall,
)
from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor
from tests.support.store import IDS, short_directory

CLOCK = SystemClock()
PATIENT_S = 120.0


@dataclass
class Machine:
    """What a worker has."""

    data: Path
    state: Path
    slots: MachineSlots
    slot: object
    sandbox: BubblewrapSandbox
    trees: GitTrees
    tools: TaskTools

    def close(self):
        self.slots.give_back(self.slot)
        for folder in {self.data, self.state}:
            shutil.rmtree(folder, ignore_errors=True)

    async def shell(self, place, command, timeout_s=240.0, **options):
        """Run a shell command on a tree as its slot."""
        limits = options.pop("limits", LimitSet())
        on_start = options.pop("on_start", None)
        mounts = (Mount(place.work, "/task", is_writable=True),)
        wanted = SandboxCommand(
            ("/bin/sh", "-c", command), place.slot, mounts, limits=replace(limits, timeout_s=timeout_s), **options
        )
        return await self.sandbox.run(wanted, on_start=on_start)

    async def repo(self, files=None):
        """A fresh task with these files; returns its place and base."""
        place = self.trees.place(f"t{IDS.new().hex}", self.slot)
        return place, await self.trees.create(place, FilesRepo(files or {"a.txt": "one\n"}))

    def bench(self, place, **options):
        """What a tool works with."""
        secrets = options.pop("secrets", {})
        redactor = Redactor(named={name: value.encode() for name, value in secrets.items()})
        limits = options.pop("limits", LimitSet(timeout_s=120.0))
        return Bench(place, limits, redactor, World((CODE,)), environment=secrets, **options)

    async def call(self, bench, name, /, **arguments):
        """Parse and perform a call; returns the result and its text as an object."""
        call = parse_call("1", name, json.dumps(arguments))
        assert isinstance(call, ToolCall), call
        result = await self.tools.execute(call, bench)
        return result, json.loads(result.text)

    async def snapshot(self, place, step, parent):
        return await self.trees.snapshot(place, Commit(step, parent, CLOCK.now_us(), {"Task": "t"}))


def make_machine():
    """Probe once; returns the machine, or the report of what does not hold."""
    data = short_directory("interlock-agents-")
    if os.geteuid() == 0:
        # Closed to the dropped uid, as a data directory below a home is.
        data.chmod(0o700)
    state = state_folder(data)
    slots = MachineSlots(8)
    slot = slots.take()
    sandbox = BubblewrapSandbox(state, CLOCK)
    report = asyncio.run(sandbox.probe(slot))
    assert report.launcher, report
    return Machine(data, state, slots, slot, sandbox, GitTrees(state, IDS), TaskTools(sandbox, CLOCK, IDS))


def assert_empty(pidns):
    """Nothing is left in a namespace. The kernel gives its number again, so a sandbox of another test may have it."""
    assert pidns is not None
    deadline = time.monotonic() + PATIENT_S
    while members(pidns) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(pidns) == []


__all__ = ["CLOCK", "Machine", "SandboxUnavailableError", "assert_empty", "make_machine"]
