"""idle: what a platform that nobody uses costs, with `--engine none`: memory as PSS, CPU as share of one core.

Bounds: <= 600 MB and <= 3 %. Run: `make bench B=idle`; SECONDS_WATCHED sets for how long (60).
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.record import record

PSS_MB_MAX = 600
CPU_SHARE_MAX = 0.03
SETTLE_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def platform(*flags: str) -> Iterator[tuple[Path, int]]:
    """Start the platform as a user would, yield its data directory and supervisor pid, drain it."""
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        argv = [sys.executable, "-m", "interlock", "up", "--data", str(data), "--port", "0", *flags]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            line = process.stdout.readline()
            if not line.startswith("ready"):
                raise SystemExit(f"the platform did not start: {line!r}, exit {process.wait()}")
            yield data, process.pid
        finally:
            process.terminate()
            process.wait(timeout=120)
            process.stdout.close()


def family(data: Path, supervisor: int) -> dict[int, str]:
    """Return all processes of a platform: the supervisor, its descendants, and the store with its own."""
    store = int((data / "run" / "store-0.pid").read_text())
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(") ")
        except OSError:
            continue
        pid, _, name = head.partition(" (")
        parents[int(pid)], names[int(pid)] = int(tail.split()[1]), name
    named = {int(file.read_text()): file.stem for file in (data / "run").glob("*.pid")}

    def belongs(pid: int) -> bool:
        while pid > 1:
            if pid in {store, supervisor}:
                return True
            pid = parents.get(pid, 0)
        return False

    return {pid: named.get(pid, names[pid]) for pid in parents if belongs(pid)}


def pss_kb(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> int:
    seconds = float(os.environ.get("SECONDS_WATCHED", "60"))
    with platform("--engine", "none") as (data, supervisor):
        time.sleep(SETTLE_S)
        members = family(data, supervisor)
        before = {pid: cpu_s(pid) for pid in members}
        time.sleep(seconds)
        used = {pid: (cpu_s(pid) - before[pid]) / seconds for pid in members if Path(f"/proc/{pid}").exists()}
        memory = {pid: pss_kb(pid) / 1000 for pid in used}
    for pid in sorted(used, key=lambda each: -memory[each]):
        print(f"  {members[pid]:<14} {memory[pid]:7.1f} MB  {used[pid] * 100:5.2f} %")
    total_mb, share = sum(memory.values()), sum(used.values())
    is_met = record("idle memory", total_mb, "MB PSS", "lower", PSS_MB_MAX)
    is_met = record("idle cpu", share, "share of a core", "lower", CPU_SHARE_MAX) and is_met
    cpu = f"{share * 100:.2f} % of a core (<= 3 %) over {seconds:.0f} s"
    print(f"idle: {total_mb:.0f} MB PSS (<= {PSS_MB_MAX}), {cpu}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
