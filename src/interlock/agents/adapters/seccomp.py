"""The system call filter of the sandbox, as a program of classic BPF for x86_64 and aarch64.

A second wall behind the namespaces: it does not decide what a task may do with files. Form: linux/filter.h and
Documentation/userspace-api/seccomp_filter.rst; the data it reads is `struct seccomp_data`.
"""

import errno
import struct
from dataclasses import dataclass
from typing import Final

from interlock.foundation.errors import BrokenWorldError

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

ALLOW: Final = 0x7FFF_0000
KILL: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000

_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
# The low half of the first argument; both architectures are little-endian, and all that is tested fits in it.
_FIRST_ARGUMENT_AT: Final = 16

_NEW_USER_NAMESPACE: Final = 0x1000_0000
_UNIX_SOCKETS: Final = 1
_X32_BIT: Final = 0x4000_0000

X86_64: Final = 0xC000_003E
AARCH64: Final = 0xC000_00B7


@dataclass(frozen=True, slots=True)
class Call:
    """A system call by its number on both architectures; None where it does not exist."""

    name: str
    x86_64: int | None
    aarch64: int | None


# What changes the world outside of the process, reads other processes, or has been a way out of namespaces before.
REFUSED: Final = (
    Call("ptrace", 101, 117),
    Call("process_vm_readv", 310, 270),
    Call("process_vm_writev", 311, 271),
    Call("process_madvise", 440, 440),
    Call("pidfd_getfd", 438, 438),
    Call("kcmp", 312, 272),
    Call("mount", 165, 40),
    Call("umount2", 166, 39),
    Call("open_tree", 428, 428),
    Call("move_mount", 429, 429),
    Call("fsopen", 430, 430),
    Call("fsconfig", 431, 431),
    Call("fsmount", 432, 432),
    Call("fspick", 433, 433),
    Call("mount_setattr", 442, 442),
    Call("open_tree_attr", 467, 467),
    Call("pivot_root", 155, 41),
    Call("chroot", 161, 51),
    Call("unshare", 272, 97),
    Call("setns", 308, 268),
    Call("bpf", 321, 280),
    Call("add_key", 248, 217),
    Call("request_key", 249, 218),
    Call("keyctl", 250, 219),
    Call("io_uring_setup", 425, 425),
    Call("io_uring_enter", 426, 426),
    Call("io_uring_register", 427, 427),
    Call("userfaultfd", 323, 282),
    Call("perf_event_open", 298, 241),
    Call("open_by_handle_at", 304, 265),
    Call("personality", 135, 92),
    Call("init_module", 175, 105),
    Call("finit_module", 313, 273),
    Call("delete_module", 176, 106),
    Call("kexec_load", 246, 104),
    Call("kexec_file_load", 320, 294),
    Call("reboot", 169, 142),
    Call("swapon", 167, 224),
    Call("swapoff", 168, 225),
    Call("acct", 163, 89),
    Call("quotactl", 179, 60),
    Call("quotactl_fd", 443, 443),
    Call("syslog", 103, 116),
    Call("iopl", 172, None),
    Call("ioperm", 173, None),
)  # fmt: skip
# Memory that belongs to no process, and so to no count of the watchdog; programs fall back to files.
ABSENT: Final = (Call("memfd_create", 319, 279), Call("memfd_secret", 447, 447), Call("shmget", 29, 194))
# The C library falls back to `clone`, whose flags a filter can read.
CLONE3: Final = Call("clone3", 435, 435)
CLONE: Final = Call("clone", 56, 220)
SOCKET: Final = Call("socket", 41, 198)


def filter_for(machine: str) -> bytes:
    """Return the program for a machine as `uname -m` names it. Raises `BrokenWorldError` for another architecture."""
    if machine == "x86_64":
        return _assembled(X86_64, "x86_64")
    if machine in {"aarch64", "arm64"}:
        return _assembled(AARCH64, "aarch64")
    raise BrokenWorldError(
        "sandbox_unavailable", f"there is no system call filter for {machine}", "run on x86_64 or aarch64"
    )


def _assembled(architecture: int, column: str) -> bytes:
    code = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    if architecture == X86_64:
        code += [_step(_AT_LEAST, _X32_BIT, 0, 1), _step(_RETURN, KILL)]
    for call in REFUSED:
        code += _answer(getattr(call, column), errno.EPERM)
    for call in (*ABSENT, CLONE3):
        code += _answer(getattr(call, column), errno.ENOSYS)
    code += [
        _step(_EQUAL, getattr(CLONE, column), 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_ANY_BIT, _NEW_USER_NAMESPACE, 0, 1),
        _step(_RETURN, ERRNO | errno.EPERM),
        _step(_RETURN, ALLOW),
        _step(_EQUAL, getattr(SOCKET, column), 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_EQUAL, _UNIX_SOCKETS, 1, 0),
        _step(_RETURN, ERRNO | errno.EAFNOSUPPORT),
        _step(_RETURN, ALLOW),
    ]
    return b"".join(code)


def _answer(number: int | None, error: int) -> list[bytes]:
    return [] if number is None else [_step(_EQUAL, number, 0, 1), _step(_RETURN, ERRNO | error)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`; the jumps count the steps that are left out."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
