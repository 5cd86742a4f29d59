"""The same kills through the front door: writers of `POST /admin/v1/workspaces` and the supervisor at work.

A write without an answer is asked for again with its Idempotency-Key, as a careful client does. KILLS sets how many.
"""

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from benchmarks.idle import platform
from benchmarks.record import record

KILLS = int(os.environ.get("KILLS", "20"))
WRITERS = 8
LOAD_S = 1.0
GOAL_S = 2.0
PATIENCE_S = 60.0


class Caller:
    """One connection to the front door, opened again when it was lost."""

    def __init__(self, data: Path) -> None:
        self._host = urlsplit((data / "run" / "url").read_text().strip()).netloc
        self._key = (data / "owner.key").read_text().strip()
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, target: str, body: Any = None, idempotency_key: str | None = None) -> tuple[int, Any]:
        """Return status and object; status 0 when the connection was lost."""
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, timeout=30)
            self._connection.request(method, target, json.dumps(body) if body is not None else None, headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0, None


@dataclass
class Load:
    """What the writers were told; `made` maps an Idempotency-Key to the id of its workspace."""

    made: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)


def write(data: Path, number: int, load: Load) -> None:
    caller = Caller(data)
    count = 0
    while not load.is_over.is_set():
        count += 1
        name = f"load-{number}-{count}"
        status = 0
        while status != 201 and not load.is_over.is_set():
            status, made = caller.call("POST", "/admin/v1/workspaces", {"name": name}, name)
            load.statuses[status] += 1
            if status == 201:
                load.made[name] = made["id"]
                load.acknowledged.set()
            else:
                time.sleep(0.05)


def kill_once(data: Path, load: Load) -> float:
    """Return the seconds from the kill to the first write that was acknowledged after the store was back."""
    time.sleep(LOAD_S)
    pid_file = data / "run" / "store-0.pid"
    pid = int(pid_file.read_text())
    killed_s = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while read_pid(pid_file) in {None, pid}:
        if time.perf_counter() - killed_s > PATIENCE_S:
            raise SystemExit("the supervisor did not bring the store back")
        time.sleep(0.01)
    load.acknowledged.clear()
    if not load.acknowledged.wait(PATIENCE_S):
        raise SystemExit(f"no write was acknowledged after the kill: {dict(load.statuses)}")
    return time.perf_counter() - killed_s


def read_pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def listed(caller: Caller) -> dict[str, str]:
    found: dict[str, str] = {}
    cursor = ""
    while True:
        status, page = caller.call("GET", f"/admin/v1/workspaces?limit=200{cursor}")
        if status != 200:
            time.sleep(0.2)
            continue
        found |= {each["name"]: each["id"] for each in page["data"]}
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={quote(page['next_cursor'])}"


def replayed_differently(caller: Caller, load: Load) -> int:
    """Ask again for a sample of the writes; each must answer with the id that it was given."""
    wrong = 0
    for name in list(load.made)[:: max(1, len(load.made) // 50)]:
        status, made = caller.call("POST", "/admin/v1/workspaces", {"name": name}, name)
        while status in {0, 429, 503}:
            time.sleep(0.1)
            status, made = caller.call("POST", "/admin/v1/workspaces", {"name": name}, name)
        wrong += status != 201 or made["id"] != load.made[name]
    return wrong


def main() -> int:
    load = Load()
    with platform("--engine", "none") as (data, _):
        writers = [threading.Thread(target=write, args=(data, number, load)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            took = [kill_once(data, load) for _ in range(KILLS)]
        finally:
            load.is_over.set()
            for writer in writers:
                writer.join()
        caller = Caller(data)
        kept = listed(caller)
        wrong = replayed_differently(caller, load)
        verify = [sys.executable, "-m", "interlock", "audit", "verify", "--data", str(data), "--json"]
        audit = subprocess.run(verify, capture_output=True, text=True, check=False)
    lost = sum(kept.get(name) != made for name, made in load.made.items())
    p50, p95 = statistics.median(took), sorted(took)[max(0, round(0.95 * len(took)) - 1)]
    print(f"kills {len(took)}, writers {WRITERS}, statuses {dict(sorted(load.statuses.items()))}")
    print(f"acknowledged {len(load.made)}, lost {lost}, replayed with another id {wrong}   goal 0 and 0")
    print(f"audit verify: exit {audit.returncode} {audit.stdout.strip()}")
    print(f"back after: p50 {p50:.2f} s, p95 {p95:.2f} s, longest {max(took):.2f} s   goal p95 <= {GOAL_S} s")
    met = [
        record("store_recovery_up lost", lost + wrong, "writes", "lower", 0),
        record("store_recovery_up p50", p50, "s", "lower"),
        record("store_recovery_up p95", p95, "s", "lower", GOAL_S),
    ]
    is_expected = set(load.statuses) <= {201, 429, 503}
    return 0 if all(met) and audit.returncode == 0 and is_expected else 1


if __name__ == "__main__":
    sys.exit(main())
