"""One run in a sandbox: start it, hold it until it is recorded, read it, bound it, and leave its namespace empty.

Trusts its launcher; `probes` says whether that is deserved, and `sandbox` does not run one that was not probed.
"""

import asyncio
import errno
import json
import os
import re
import subprocess
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from interlock.agents.adapters.launcher import Interpreter, Launcher, accounts, options, wrapped
from interlock.agents.adapters.namespaces import Killer, Machine, start_of
from interlock.agents.adapters.pipes import Pipe
from interlock.agents.adapters.watchdog import Watchdog
from interlock.agents.domain.ports import OnStart
from interlock.agents.domain.types import (
    KillProof,
    Probe,
    ProcessRecord,
    SandboxCommand,
    SandboxRun,
    SandboxUnavailableError,
)
from interlock.foundation.clock import Clock

OnBytes = Callable[[bytes], Awaitable[None]]
T = TypeVar("T")

_SETUP_S: Final = 120.0
_LAST_WORDS_S: Final = 0.5
# `timeout` inside the namespace comes first; this much later the namespace is killed from outside.
_GRACE_S: Final = 0.2
_TIMED_OUT: Final = 124
_PIECE_BYTES: Final = 64 << 10
_ERRNO_WORDS: Final = {os.strerror(number): name for number, name in errno.errorcode.items()}


@dataclass(slots=True)
class Running:
    """A sandbox that was started. `stop` ends it from outside with the reason that is put in."""

    process: subprocess.Popen[bytes]
    status: Pipe
    output: Pipe
    hold: int
    stop: asyncio.Future[str]
    record: ProcessRecord | None = None
    proof: KillProof | None = None
    kept: bytearray = field(default_factory=bytearray)
    is_cut: bool = False


class Box:
    """Runs commands with one launcher."""

    def __init__(
        self, launcher: Launcher, interpreter: Interpreter, seccomp: bytes, clock: Clock, machine: Machine
    ) -> None:
        """`seccomp` is the filter for this machine."""
        self.launcher = launcher
        self._interpreter = interpreter
        self._seccomp = seccomp
        self._clock = clock
        self._machine = machine
        self._killer = Killer(clock, machine)

    async def run(
        self,
        command: SandboxCommand,
        *,
        on_start: OnStart | None = None,
        on_bytes: OnBytes | None = None,
        on_running: Callable[[Running], None] | None = None,
    ) -> SandboxRun:
        """Run a command; see `ports.Sandbox.run`. `on_running` gets the handle once the namespace is known."""
        began = self._clock.monotonic()
        running = self._started(command)
        stopped_by: str | None = None
        try:
            running.record = await self._recorded(running, command)
            if on_running is not None:
                on_running(running)
            if on_start is not None:
                await on_start(running.record)
            await self._at_the_gate(running)
            _release(running)
            stopped_by = await self._watched(running, command, on_bytes)
        finally:
            await to_the_end(self._ended(running))
            running.status.close()
            running.output.close()
        seconds = self._clock.monotonic() - began
        exit_code = running.process.returncode
        if stopped_by is None and exit_code == _TIMED_OUT and seconds >= command.limits.timeout_s:
            stopped_by = "timeout"
        assert running.proof is not None
        return SandboxRun(
            exit_code=exit_code if stopped_by is None and exit_code >= 0 else None,
            stopped_by=stopped_by,
            output=bytes(running.kept),
            is_cut=running.is_cut,
            seconds=seconds,
            proof=running.proof,
        )

    async def abandoned(self, command: SandboxCommand, parent: tuple[str, ...]) -> int:
        """Run a command below another parent, kill that parent, and return the namespace it leaves: for a probe."""
        running = self._started(command, parent)
        try:
            record = await self._recorded(running, command)
            await self._at_the_gate(running)
            _release(running)
            # Its first word says that it runs, and so that the launcher is done with setting up.
            running.kept += await running.output.read(1)
            return record.pidns_inode
        finally:
            running.process.kill()
            await to_the_end(self._ended(running))
            running.status.close()
            running.output.close()

    def _started(self, command: SandboxCommand, parent: tuple[str, ...] = ()) -> Running:
        try:
            process, status, output, hold = self._spawn(command, parent)
        except OSError as error:
            raise SandboxUnavailableError(_broken(error.errno, str(error))) from error
        stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return Running(process, Pipe(status), Pipe(output), hold, stop)

    def _spawn(self, command: SandboxCommand, parent: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], int, int, int]:
        """Start the launcher and return it with our ends of status, output and hold.

        The program waits at a gate inside for a word from us. The launcher's own `--block-fd` opens when its writer
        dies, and its `--die-with-parent` is in force only after its set-up: a worker killed in between left a sandbox
        that nobody knew of.
        """
        status, status_end = os.pipe()
        output, output_end = os.pipe()
        hold_end, hold = os.pipe()
        passwd, group = (_in_memory(each) for each in accounts(command))
        seccomp = _in_memory(self._seccomp)
        made = ["--perms", "0444", "--file", str(passwd), "/etc/passwd"]
        made += ["--perms", "0444", "--file", str(group), "/etc/group", "--seccomp", str(seccomp)]
        made += ["--json-status-fd", str(status_end)]
        made += options(command, self._interpreter)
        # Through memory, as the list of processes shows arguments to everybody and these hold a task's secrets.
        listed = _in_memory(b"".join(os.fsencode(each) + b"\0" for each in made))
        inherited = [status_end, passwd, group, seccomp, listed]
        is_dropped = command.slot.uid != os.geteuid()
        who: dict[str, Any] = (
            {"user": command.slot.uid, "group": command.slot.gid, "extra_groups": []} if is_dropped else {}
        )
        try:
            process = subprocess.Popen(  # noqa: S603 - the one place that starts programs for a task
                [*parent, str(self.launcher.program), "--args", str(listed), "--", *wrapped(command)],
                stdin=hold_end, stdout=output_end, stderr=output_end,
                cwd="/", env={}, pass_fds=inherited, **who,
            )  # fmt: skip
        except OSError:
            for descriptor in (status, output, hold):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (*inherited, output_end, hold_end):
                os.close(descriptor)
        return process, status, output, hold

    async def _recorded(self, running: Running, command: SandboxCommand) -> ProcessRecord:
        """Read who the first process is, and in which namespace. Raises `SandboxUnavailableError`."""
        try:
            async with asyncio.timeout(_SETUP_S):
                line = await running.status.line()
        except TimeoutError:
            line = b""
        if not line:
            raise await _gave_up(running, b"")
        told = json.loads(line)
        pid = told["child-pid"]
        _first_to_go(pid)
        return ProcessRecord(
            host_id=self._machine.host_id,
            boot_id=self._machine.boot_id,
            pid=pid,
            pid_start=start_of(pid) or 0,
            pidns_inode=told["pid-namespace"],
            uid=command.slot.uid,
        )

    async def _at_the_gate(self, running: Running) -> None:
        """Wait for the gate to say that the set-up is done. Raises `SandboxUnavailableError`.

        From then on the launcher dies with us. Let through earlier, a program outlived a worker that was killed.
        """
        try:
            async with asyncio.timeout(_SETUP_S):
                first = await running.output.read(1)
        except TimeoutError:
            first = b""
        if first != b"\n":
            raise await _gave_up(running, first)

    async def _watched(self, running: Running, command: SandboxCommand, on_bytes: OnBytes | None) -> str | None:
        """Wait for the end and return what stopped it, None where it came by itself."""
        assert running.record is not None
        limits = command.limits
        sources = [Path(mount.source) for mount in command.mounts if mount.is_writable]
        watchdog = Watchdog(running.record.pid, sources, limits, self._clock)
        reading = asyncio.ensure_future(_read(running, limits.output_bytes, on_bytes))
        exited = asyncio.ensure_future(_exited(running.process.pid))
        late = asyncio.ensure_future(self._late(limits.timeout_s + _GRACE_S))
        ends: set[asyncio.Future[Any]] = {exited, late, asyncio.ensure_future(watchdog.run()), running.stop}
        try:
            await _any_of(ends, reading)
        except BaseException:
            reading.cancel()
            raise
        finally:
            reason = next((end.result() for end in ends - {exited} if end.done() and not exited.done()), None)
            for end in ends:
                end.cancel()
            await to_the_end(self._ended(running))
        await reading
        return reason

    async def _late(self, seconds: float) -> str:
        await self._clock.sleep(seconds)
        return "timeout"

    async def _ended(self, running: Running) -> None:
        """Leave nothing alive, let go of all that was opened; does nothing the second time."""
        if running.proof is not None:
            return
        _close_gate(running)
        if running.record is None:
            running.process.kill()
            running.proof = KillProof("never_ran")
        else:
            proof = await self._killer.kill(running.record)
            # It was ours and ran; that it ended by itself makes its namespace no less empty.
            running.proof = replace(proof, kind="namespace_empty")
        while running.process.poll() is None:
            await self._clock.sleep(0.001)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await something that has to be finished even when we are cancelled; the cancellation comes after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


async def _read(running: Running, bytes_max: int, on_bytes: OnBytes | None) -> None:
    """Keep output up to the limit and read on, so that a program that says too much is not held up by us."""
    while piece := await running.output.read(_PIECE_BYTES):
        room = bytes_max - len(running.kept)
        running.is_cut |= len(piece) > room
        kept = piece[:room]
        running.kept += kept
        if kept and on_bytes is not None:
            await on_bytes(kept)


async def _exited(pid: int) -> None:
    """Wait until a child has ended, without reaping it."""
    loop = asyncio.get_running_loop()
    handle = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def _any_of(ends: set[asyncio.Future[Any]], reading: asyncio.Future[None]) -> None:
    """Wait for one of the ends. The output may close long before, and what fails in reading it ends the run."""
    waiting = {*ends, reading}
    while not any(end.done() for end in ends):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
            waiting.discard(reading)


def _first_to_go(pid: int) -> None:
    """When memory runs out, the kernel takes a task's process before one of ours."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _release(running: Running) -> None:
    """Let the program through the gate."""
    if running.hold >= 0:
        with suppress(OSError):
            os.write(running.hold, b"go\n")
    _close_gate(running)


def _close_gate(running: Running) -> None:
    """Send a program that still waits away."""
    if running.hold >= 0:
        os.close(running.hold)
        running.hold = -1


def _in_memory(content: bytes) -> int:
    """Return a descriptor from which the content can be read once."""
    handle = os.memfd_create("sandbox", 0)
    os.write(handle, content)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


async def _gave_up(running: Running, first: bytes) -> SandboxUnavailableError:
    """Return what the launcher complained of; what stands before the gate is its own words."""
    said = bytearray(first)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_S):
            while len(said) < _PIECE_BYTES and (piece := await running.output.read(_PIECE_BYTES)):
                said += piece
    return SandboxUnavailableError(_complaint(bytes(said)))


def _complaint(output: bytes) -> Probe:
    """Turn what the launcher said into a finding with the errno that it spelled out."""
    text = output.decode("utf-8", "replace").strip() or "the launcher ended without a word"
    words = re.split(r": ", text.splitlines()[0])
    found = next((_ERRNO_WORDS[word] for word in reversed(words) if word in _ERRNO_WORDS), None)
    return Probe("bwrap_starts", False, 0.0, found, text[:400], _FIX)


def _broken(number: int | None, text: str) -> Probe:
    return Probe("bwrap_starts", False, 0.0, errno.errorcode.get(number or 0), text[:400], _FIX)


_FIX: Final = (
    "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0), or install bubblewrap >= 0.8"
)
