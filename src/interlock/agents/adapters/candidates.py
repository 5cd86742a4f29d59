"""Tries candidate edits on a copy of a tree, one after the other; its text is run by the Python of the sandbox.

Uses the standard library alone and trusts nothing that it starts: a result goes out by a descriptor that no test holds.
Decides nothing: whether a candidate is taken is up to whoever reads the results.
"""

from __future__ import annotations  # the sandbox's Python may be older than ours

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time

PRISTINE, COPY = "/opt/pristine", "/task"
LEFT_OUT = ("__pycache__", ".pytest_cache", ".mypy_cache")
LIMIT_S_MIN, LIMIT_S_OF_ENDLESS, TIMES_BASELINE = 0.4, 1.0, 3
PR_SET_DUMPABLE = 4

Signature = tuple[int, int, int, int]


def main(plan_path: str) -> None:
    """Run the unchanged program, then each candidate, and print one line of JSON for each."""
    with open(plan_path, encoding="utf-8") as file:  # noqa: PTH123 - as few imports as can be
        plan = json.load(file)
    # A test has our uid; without this it could write into our memory.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    shutil.copytree(PRISTINE, COPY, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    known = signatures()
    code, seconds = tested(plan["command"], plan["timeout_s"])
    tell({"number": -1, "exit_code": code, "seconds": seconds})
    limit_s = LIMIT_S_OF_ENDLESS if code is None else max(LIMIT_S_MIN, TIMES_BASELINE * seconds)
    limit_s = min(plan["timeout_s"], limit_s)
    known = restored(known)
    for number, edits in enumerate(plan["candidates"]):
        if not applied(edits):
            tell({"number": number, "exit_code": None, "seconds": 0, "is_invalid": True})
            known = restored(known)
            continue
        code, seconds = tested(plan["command"], limit_s)
        tell({"number": number, "exit_code": code, "seconds": seconds})
        known = restored(known)
        if code == 0 and plan["stop_at_first"]:
            return


def tell(result: dict[str, object]) -> None:
    """Print one result."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def tested(command: str, limit_s: float) -> tuple[int | None, float]:
    """Run the tests and kill what they leave behind; the code is None where they ran into the limit."""
    began = time.monotonic()
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(  # noqa: S603 - inside the sandbox
        ["/bin/sh", "-c", command], cwd=COPY, stdin=devnull, stdout=devnull, stderr=devnull, start_new_session=True
    )
    try:
        code: int | None = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        code = None
    seconds = time.monotonic() - began
    sweep()
    process.wait()
    return code, seconds


def sweep() -> None:
    """Kill every process of the namespace but the first one, those above us and ourselves."""
    kept = {1, os.getpid()}
    pid = os.getpid()
    while pid > 1:
        pid = parent_of(pid)
        kept.add(pid)
    while True:
        others = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in kept]  # noqa: PTH208
        others = [pid for pid in others if parent_of(pid) >= 0]
        if not others:
            return
        for each in others:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def parent_of(pid: int) -> int:
    """Return the parent of a living process, -1 for one that is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in {b"Z", b"X"} else int(fields[1])


def applied(edits: list[dict[str, str]]) -> bool:
    """Apply the edits of a candidate; False where one does not fit exactly once."""
    for edit in edits:
        path = os.path.join(COPY, edit["path"])  # noqa: PTH118
        try:
            with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
                text = file.read()
        except (OSError, UnicodeDecodeError):
            return False
        if text.count(edit["old"]) != 1:
            return False
        replaced(path, text.replace(edit["old"], edit["new"]))
    return True


def replaced(path: str, text: str) -> None:
    """Write a new file in the place of the old one, so that no reader sees half of it."""
    with open(path + ".candidate", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        file.write(text)
    shutil.copymode(path, path + ".candidate")
    os.replace(path + ".candidate", path)  # noqa: PTH105


def signatures() -> dict[str, Signature]:
    """Return what tells each file of the copy from another; nobody can set the time of a change of the inode."""
    found = {}
    for folder, folders, files in os.walk(COPY):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118
            stat = os.lstat(path)
            is_folder = os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114
            found[path] = (0, 0, 0, 0) if is_folder else (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def restored(known: dict[str, Signature]) -> dict[str, Signature]:
    """Make the copy what it was, and return its signatures."""
    now = signatures()
    for path in sorted(now, key=len, reverse=True):
        if now[path] != known.get(path):
            unlink(path)
    changed = False
    for path in sorted(known, key=len):
        if now.get(path) == known[path]:
            continue
        changed = True
        origin = PRISTINE + path[len(COPY) :]
        if os.path.isdir(origin) and not os.path.islink(origin):  # noqa: PTH112, PTH114
            os.makedirs(path, exist_ok=True)  # noqa: PTH103
        else:
            shutil.copy2(origin, path, follow_symlinks=False)
    return signatures() if changed else known


def unlink(path: str) -> None:
    """Remove a file or a folder."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108


if __name__ == "__main__":
    main(sys.argv[1])
