"""The nine properties of a sandbox, each tried out under its own name. One that does not hold is not argued with.

Judges a launcher on this machine at this moment; it is asked again at every start of a worker.
"""

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from interlock.agents.adapters.box import Box, Running
from interlock.agents.adapters.namespaces import members
from interlock.agents.domain.types import LimitSet, Mount, Probe, SandboxCommand, SandboxUnavailableError, Slot
from interlock.foundation.clock import Clock

NAMES: Final = (
    "bwrap_starts",
    "user_ns",
    "no_network",
    "no_host_files",
    "nested_ns_refused",
    "seccomp_active",
    "pids_bounded",
    "kill_empties",
    "kill_after_parent",
)
_FIXES: Final = {
    "user_ns": "allow unprivileged user namespaces (user.max_user_namespaces > 0)",
    "no_network": "use bubblewrap >= 0.8 with --unshare-all; something shares the network with the sandbox",
    "no_host_files": "use bubblewrap >= 0.8; host folders are visible in the sandbox",
    "nested_ns_refused": "use bubblewrap >= 0.8, which has --disable-userns",
    "seccomp_active": "run a kernel with CONFIG_SECCOMP_FILTER",
    "pids_bounded": "install util-linux (prlimit) and run a kernel that counts processes a user namespace (>= 5.14)",
    "kill_empties": "run a kernel with pid namespaces (CONFIG_PID_NS)",
    "kill_after_parent": "use bubblewrap >= 0.8, which has --die-with-parent",
}
_LIMITS: Final = LimitSet(timeout_s=120.0, processes=24)
# One program answers most questions, as each start of a sandbox costs more than all of them.
_QUESTIONS: Final = r"""
import ctypes, errno, json, os, socket, sys
def code(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno, "?")
    return None
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    def act():
        if getattr(libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), "")
    return code(act)
told = {}
told["uid_map"] = open("/proc/self/uid_map").read().split()
told["caps"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0]
told["seccomp"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")][0]
told["inet"] = code(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
told["interfaces"] = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
told["abstract"] = code(lambda: socket.socket(socket.AF_UNIX).connect("\0" + sys.argv[1]))
told["root"] = sorted(os.listdir("/"))
told["seen"] = [path for path in json.loads(sys.argv[2]) if os.path.lexists(path)]
told["written"] = code(lambda: os.close(os.open("/usr/.probe", os.O_CREAT | os.O_WRONLY)))
told["unshare"] = call("unshare", 0x10000000)
told["ptrace"] = call("ptrace", 0, 0, 0, 0)
told["mount"] = call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
children = 0
while children < 200:
    try:
        pid = os.fork()
    except OSError as error:
        told["fork"] = errno.errorcode.get(error.errno, "?")
        break
    if pid == 0:
        import time
        time.sleep(600)
        os._exit(0)
    children += 1
told["children"] = children
print(json.dumps(told), flush=True)
os._exit(0)
"""
# Forgets its parent twice, as a daemon does; nothing but the end of the namespace ends it.
_DAEMON: Final = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
"""
# A parent that can be killed without killing ourselves.
_PARENT: Final = ("/bin/sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & exec 3<&-; wait', "sh")
# How long what has to end may take; a busy machine is not one without a sandbox.
_EMPTY_S: Final = 60.0
_FIRST_S: Final = 0.005
_PROGRAM: Final = "/opt/bin/python3"


_TOP: Final = frozenset({"bin", "dev", "etc", "lib", "lib32", "lib64", "opt", "proc", "sbin", "task", "tmp", "usr"})
_PRIVATE: Final = ("/etc/shadow", "/etc/hostname", "/etc/ssh", "/root", "/home", "/var", "/run", "/sys", "/boot")


class Prober:
    """Asks one launcher everything."""

    def __init__(self, box: Box, slot: Slot, folder: Path, clock: Clock) -> None:
        """`folder` is a place of the slot's own, mounted as `/task`."""
        self._box = box
        self._slot = slot
        self._folder = folder
        self._clock = clock
        self._told: dict[str, Any] = {}

    async def run(self) -> tuple[Probe, ...]:
        """Return all probes, those after the first failure as not tried."""
        acts: dict[str, Callable[[], Awaitable[str | None] | str | None]] = {
            "bwrap_starts": self._starts,
            "user_ns": self._user_namespace,
            "no_network": self._network,
            "no_host_files": self._host_files,
            "nested_ns_refused": self._nested,
            "seccomp_active": self._seccomp,
            "pids_bounded": self._pids,
            "kill_empties": self._kill,
            "kill_after_parent": self._orphan,
        }
        probes: list[Probe] = []
        for name in NAMES:
            if probes and not probes[-1].is_held:
                probes.append(Probe(name, False, 0.0, None, "not tried, as the one before does not hold", None))
                continue
            probes.append(await self._one(name, acts[name]))
        return tuple(probes)

    async def _one(self, name: str, act: Callable[[], Any]) -> Probe:
        began = self._clock.monotonic()
        try:
            finding = act()
            if asyncio.iscoroutine(finding):
                finding = await finding
        except SandboxUnavailableError as error:
            return replace(error.probe, name=name, ms=self._ms(began))
        except OSError as error:
            return Probe(
                name, False, self._ms(began), errno.errorcode.get(error.errno or 0), str(error), _FIXES.get(name)
            )
        if finding is None:
            return Probe(name, True, self._ms(began))
        return Probe(name, False, self._ms(began), None, finding, _FIXES.get(name))

    def _ms(self, began: float) -> float:
        return round((self._clock.monotonic() - began) * 1000, 3)

    def _command(self, *argv: str) -> SandboxCommand:
        mounts = (Mount(self._folder, "/task", is_writable=True),)
        return SandboxCommand(argv, self._slot, mounts, limits=_LIMITS)

    async def _starts(self) -> str | None:
        """Ask all questions at once; the probes after this one read the answers."""
        with socket.socket(socket.AF_UNIX) as listener:
            # A name that the kernel picks; a sandbox in our network could connect to it.
            listener.bind("")
            listener.listen(1)
            name = listener.getsockname()[1:].decode("ascii")
            hidden = json.dumps([str(path) for path in self._hidden()])
            ran = await self._box.run(self._command(_PROGRAM, "-c", _QUESTIONS, name, hidden))
        if ran.exit_code != 0:
            return f"exit {ran.exit_code} {ran.stopped_by or ''} {ran.output[-300:].decode('utf-8', 'replace')}"
        self._told = json.loads(ran.output)
        return None

    def _user_namespace(self) -> str | None:
        told = self._told
        mapped = [int(each) for each in told["uid_map"]]
        if (mapped[0], mapped[2]) != (self._slot.uid, 1):
            return f"the uids of the sandbox are mapped as {told['uid_map']}"
        return None if int(told["caps"], 16) == 0 else f"the program has capabilities {told['caps']}"

    def _network(self) -> str | None:
        told = self._told
        if told["inet"] != "EAFNOSUPPORT":
            return f"an internet socket answers {told['inet']}"
        if told["interfaces"] != ["lo"]:
            return f"there are interfaces {told['interfaces']}"
        return None if told["abstract"] == "ECONNREFUSED" else f"a socket of the host answers {told['abstract']}"

    def _host_files(self) -> str | None:
        strange = set(self._told["root"]) - _TOP
        if strange or self._told["seen"]:
            return f"the sandbox sees {sorted(strange) + self._told['seen']}"
        return None if self._told["written"] == "EROFS" else f"writing to /usr answers {self._told['written']}"

    def _nested(self) -> str | None:
        # The launcher has tried for itself, before the filter, whether its `--disable-userns` holds.
        answer = self._told["unshare"]
        return None if answer == "EPERM" else f"a namespace in the namespace answers {answer}"

    def _seccomp(self) -> str | None:
        told = self._told
        answers = (told["seccomp"], told["ptrace"], told["mount"])
        return None if answers == ("2", "EPERM", "EPERM") else f"mode, ptrace and mount answer {answers}"

    def _pids(self) -> str | None:
        told = self._told
        if told.get("fork") == "EAGAIN" and told["children"] <= _LIMITS.processes:
            return None
        return f"{told.get('fork')} after {told['children']} processes"

    async def _kill(self) -> str | None:
        found: list[Running] = []

        async def strike() -> None:
            while not found:
                await self._clock.sleep(_FIRST_S)
            # The program ends at once; its daemon is what keeps the output open.
            await self._clock.sleep(_FIRST_S)
            found[0].stop.set_result("killed")

        striking = asyncio.ensure_future(strike())
        try:
            command = self._command(_PROGRAM, "-c", _DAEMON + "time.sleep(600)")
            ran = await self._box.run(command, on_running=found.append)
        finally:
            striking.cancel()
        left = members(ran.proof.pidns or 0)
        return f"{len(left)} processes outlived the kill" if left or ran.stopped_by != "killed" else None

    async def _orphan(self) -> str | None:
        pidns = await self._box.abandoned(self._command("/bin/sh", "-c", "echo up; sleep 600"), _PARENT)
        began = self._clock.monotonic()
        while left := members(pidns):
            if self._clock.monotonic() - began > _EMPTY_S:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return f"{len(left)} processes outlived their parent"
            await self._clock.sleep(_FIRST_S)
        return None

    def _hidden(self) -> list[Path]:
        """Name what every machine has and no task may see, and our own folders."""
        return [*(Path(each) for each in _PRIVATE), self._folder, self._folder.parent]
