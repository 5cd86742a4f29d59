"""The sandbox of a worker: the first launcher that passes all probes, and nothing where none does.

Has no setting, flag or argument that weakens it. Does not judge commands; grants do.
"""

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from interlock.agents.adapters.box import Box, Running
from interlock.agents.adapters.launcher import find_interpreter, find_launchers
from interlock.agents.adapters.namespaces import Killer, this_machine
from interlock.agents.adapters.probes import NAMES, Prober
from interlock.agents.adapters.seccomp import filter_for
from interlock.agents.domain.ports import OnStart
from interlock.agents.domain.types import (
    KillProof,
    Probe,
    ProbeReport,
    ProcessRecord,
    SandboxCommand,
    SandboxRun,
    SandboxUnavailableError,
    Slot,
)
from interlock.foundation.clock import Clock

_PROOFS_KEPT: Final = 256
_NONE_FOUND: Final = Probe(
    "bwrap_starts", False, 0.0, "ENOENT", "no bwrap program was found", "install the package bubblewrap (>= 0.8)"
)


class BubblewrapSandbox:
    """Implements `ports.Sandbox`."""

    def __init__(self, state: Path, clock: Clock) -> None:
        """`state` is the folder that `state_folder` returned."""
        self._state = state
        self._clock = clock
        self._machine = this_machine()
        self._killer = Killer(clock, self._machine)
        self._box: Box | None = None
        self._report: ProbeReport | None = None
        self._running: dict[int, Running] = {}
        self._proofs: OrderedDict[tuple[int, int], KillProof] = OrderedDict()

    async def probe(self, slot: Slot | None = None) -> ProbeReport:
        """Try every launcher out and keep the first that holds; `slot` lends its uid where we are root."""
        self._box, reports = None, []
        who = slot or Slot(0, os.geteuid(), os.getegid())
        if who.uid == 0:
            raise ValueError("a program of a task never runs as root: probe in a slot")
        for launcher in find_launchers(self._state):
            box = Box(
                launcher, find_interpreter(self._state), filter_for(os.uname().machine), self._clock, self._machine
            )
            folder = self._state / "tasks" / f"probe-{who.number}-{os.getpid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, who.uid, who.gid)
            try:
                report = ProbeReport(launcher.name, await Prober(box, who, folder, self._clock).run())
            finally:
                folder.rmdir()
            if report.failed is None:
                self._box = box
                self._report = report
                return report
            reports.append(report)
        probes = reports[0].probes if reports else (_NONE_FOUND, *(_untried(name) for name in NAMES[1:]))
        self._report = ProbeReport(None, probes)
        return self._report

    @property
    def report(self) -> ProbeReport | None:
        """The last probe's outcome."""
        return self._report

    async def run(
        self,
        command: SandboxCommand,
        *,
        on_start: OnStart | None = None,
        on_bytes: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> SandboxRun:
        """Run a command; see the port."""
        if self._box is None:
            failed = self._report.failed if self._report else None
            raise SandboxUnavailableError(failed or _NONE_FOUND)
        found: list[Running] = []

        def note(running: Running) -> None:
            assert running.record is not None
            found.append(running)
            self._running[running.record.pidns_inode] = running

        try:
            return await self._box.run(command, on_start=on_start, on_bytes=on_bytes, on_running=note)
        finally:
            for running in found:
                self._remember(running)

    async def kill(self, record: ProcessRecord) -> KillProof:
        """Kill a namespace, ours or one that another worker of this host left; tells again how one of ours ended."""
        running = self._running.get(record.pidns_inode)
        if running is not None and running.record == record and not running.stop.done():
            running.stop.set_result("killed")
        known = self._proofs.get((record.pid, record.pid_start))
        return known or await self._killer.kill(record)

    def statistics(self) -> dict[str, int]:
        """Return what runs now."""
        return {"namespaces_live": len(self._running)}

    def _remember(self, running: Running) -> None:
        assert running.record is not None
        self._running.pop(running.record.pidns_inode, None)
        if running.proof is None:
            return
        self._proofs[running.record.pid, running.record.pid_start] = running.proof
        while len(self._proofs) > _PROOFS_KEPT:
            self._proofs.popitem(last=False)


def _untried(name: str) -> Probe:
    return Probe(name, False, 0.0, None, "not tried, as there is no launcher", None)
