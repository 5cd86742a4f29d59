"""A real platform for journeys: `interlock up` as a user starts it, on a data directory of its own."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from examples.shop.client import Answer, Platform

from tests.support.store import furnish, short_directory

READY_S = 600.0
PATIENCE_S = 240.0
# On a machine that others use too, what is slow is not too late, silent not hung, and busy not away: every bound of the
# platform that is a time, and every count of what happens in a time, is far from what even a machine that stands still
# for half a minute brings about. A test that is about one of them says so.
PATIENT = {
    "INTERLOCK_AGENTS__CREDENTIAL_S": "600",
    "INTERLOCK_AGENTS__LEASE_S": "300",
    "INTERLOCK_AGENTS__MODEL_TIMEOUT_S": "600",
    "INTERLOCK_CONTROL__BODY_IDLE_S": "600",
    "INTERLOCK_CONTROL__IDEMPOTENCY_WAIT_MS": "10000",
    "INTERLOCK_CONTROL__MUTATIONS_PER_S": "100000",
    "INTERLOCK_EDGE__CONNECT_S": "240",
    "INTERLOCK_EDGE__CONTROL_S": "600",
    "INTERLOCK_EDGE__FAILED_KEYS_PER_MINUTE": "100000",
    "INTERLOCK_EDGE__IDEMPOTENCY_LEASE_S": "600",
    "INTERLOCK_EDGE__IDEMPOTENCY_WAIT_S": "30",
    "INTERLOCK_EDGE__IDLE_S": "600",
    "INTERLOCK_EDGE__KEEP_ALIVE_S": "600",
    "INTERLOCK_EDGE__OBJECTIVE_TTFT_MS": "600000",
    "INTERLOCK_EDGE__QUEUE_S_MAX": "60",
    "INTERLOCK_EDGE__SCHEDULER_BACK_S": "120",
    "INTERLOCK_EDGE__SCHEDULER_CALL_S": "240",
    "INTERLOCK_EDGE__TOTAL_S": "1800",
    "INTERLOCK_EDGE__TTFT_S": "600",
    "INTERLOCK_EDGE__WHOLE_S": "600",
    "INTERLOCK_INFERENCE__CONNECT_S": "240",
    "INTERLOCK_LIMITS__AWAY_S": "240",
    "INTERLOCK_LIMITS__WAIT_S": "240",
    "INTERLOCK_RETRIEVAL__ANSWER_DEADLINE_S": "600",
    "INTERLOCK_RETRIEVAL__EXTRACT_CPU_S": "120",
    "INTERLOCK_RETRIEVAL__FRESH_WAIT_S": "240",
    "INTERLOCK_RETRIEVAL__LEASE_TTL_S": "300",
    "INTERLOCK_RETRIEVAL__RECEIVE_TTL_S": "1800",
    "INTERLOCK_RETRIEVAL__SEARCH_DEADLINE_S": "240",
    "INTERLOCK_ROLLOUTS__WEIGHT_LEASE_S": "600",
    "INTERLOCK_SCHEDULER__CANARY_TIMEOUT_S": "600",
    "INTERLOCK_SCHEDULER__ENGINE_SILENT_S": "600",
    "INTERLOCK_SCHEDULER__ENGINE_START_S": "600",
    "INTERLOCK_SCHEDULER__LEASE_S": "300",
    "INTERLOCK_SCHEDULER__PROBE_FAILURES_MAX": "5",
    "INTERLOCK_SCHEDULER__PROBE_TIMEOUT_S": "60",
    "INTERLOCK_STORE__CONNECT_TIMEOUT_MS": "60000",
    "INTERLOCK_STORE__IDLE_TRANSACTION_S": "600",
    "INTERLOCK_STORE__POOL_WAIT_MS": "60000",
    "INTERLOCK_STORE__PULSE_TIMEOUT_MS": "60000",
    "INTERLOCK_STORE__SHARED_MEMORY_RETRY_S": "240",
    "INTERLOCK_STORE__START_TIMEOUT_S": "240",
    "INTERLOCK_STORE__STATEMENT_TIMEOUT_APP_S": "300",
    "INTERLOCK_STORE__STOP_TIMEOUT_S": "240",
    "INTERLOCK_SUPERVISOR__DEATHS_MAX": "100",
    "INTERLOCK_SUPERVISOR__ENGINE_READY_TIMEOUT_S": "600",
    "INTERLOCK_SUPERVISOR__HEARTBEAT_TIMEOUT_S": "600",
    "INTERLOCK_SUPERVISOR__READY_TIMEOUT_S": "240",
    "INTERLOCK_WIRE__BODY_IDLE_S": "600",
    "INTERLOCK_WIRE__BODY_RATE_AFTER_S": "600",
    "INTERLOCK_WIRE__HEADER_S": "600",
    "INTERLOCK_WIRE__KEEP_ALIVE_REQUESTS_MAX": "1000000",
    "INTERLOCK_WIRE__KEEP_ALIVE_S": "600",
    "INTERLOCK_WIRE__WRITE_STALL_S": "600",
}
ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A platform that serves; `lines` is everything it printed."""

    directory: Path
    process: subprocess.Popen
    url: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def owner_key(self) -> str:
        return (self.directory / "owner.key").read_text().strip()

    @property
    def owner(self) -> Platform:
        """The platform as its operator sees it."""
        return Platform(self.url, self.owner_key)

    def as_key(self, key: str) -> Platform:
        return Platform(self.url, key)

    def pid(self, role: str, index: int = 0) -> int | None:
        name = "supervisor.pid" if role == "supervisor" else f"{role}-{index}.pid"
        try:
            return int((self.directory / "run" / name).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def cli(self, *arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "interlock", *arguments, "--data", str(self.directory)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT, env=os.environ | PATIENT
        )

    def workspace(self, name: str = "default") -> str:
        listed = self.owner.call("GET", "/admin/v1/workspaces?limit=200")
        return next(each["id"] for each in listed.body["data"] if each["name"] == name)

    def key(self, name: str, workspace_id: str | None = None, **fields: object) -> dict:
        body = {"workspace_id": workspace_id or self.workspace(), "name": name, **fields}
        body.setdefault("scopes", ["inference", "requests:read"])
        made = self.owner.call("POST", "/admin/v1/keys", body)
        assert made.status == 201, made
        return made.body

    def story(self, request_id: str, reader: Platform | None = None, within_s: float = PATIENCE_S) -> dict:
        """The complete story of a request, which is there soon."""
        deadline = time.monotonic() + within_s
        while True:
            told = (reader or self.owner).call("GET", f"/v1/requests/{request_id}")
            if told.status == 200 and told.body["complete"]:
                return told.body
            assert time.monotonic() < deadline, (request_id, told)
            time.sleep(0.05)

    def await_ready(self, within_s: float = PATIENCE_S) -> float:
        """Wait until `/readyz` is 200 and return how many seconds that took."""
        began = time.monotonic()
        while True:
            try:
                answer = Platform(self.url, "").call("GET", "/readyz")
            except OSError:
                answer = None
            if isinstance(answer, Answer) and answer.status == 200:
                return time.monotonic() - began
            assert time.monotonic() - began < within_s, answer
            time.sleep(0.02)

    def promise_late(self) -> "Running":
        """Let the embedded pool promise so little that a machine which stood still is not told to refuse."""
        settings = {f"{each}.ttft_ms": "3600000" for each in ("interactive", "standard", "batch")}
        settings |= {f"{each}.tpot_ms": "3600000" for each in ("interactive", "standard")}
        changed = self.owner.call("PUT", "/admin/v1/pools/embedded", {"settings": settings})
        assert changed.status == 200, changed
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=240)


def start(
    *flags: str, directory: Path | None = None, env: dict[str, str] | None = None, is_first: bool = False
) -> Running:
    """Start `interlock up` on a port of the system's choice and wait until it is ready.

    `is_first` leaves initdb and all migrations to it, as its first start on a machine does.
    """
    folder = directory or short_directory()
    if directory is None and not is_first:
        furnish(folder)
    command = [sys.executable, "-m", "interlock", "up", "--data", str(folder), "--port", "0", *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | PATIENT | (env or {}),
    )
    running = Running(folder, process)
    is_ready = threading.Event()

    def read() -> None:
        for line in process.stdout:
            running.lines.append(line.rstrip())
            if line.startswith("ready "):
                running.url = line.split()[1]
                is_ready.set()
        process.stdout.close()
        is_ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not is_ready.wait(READY_S) or not running.url:
        process.kill()
        raise AssertionError("the platform did not get ready:\n" + "\n".join(running.lines[-40:]))
    return running


def remove(running: Running) -> None:
    """Stop the platform and take its directory away."""
    running.stop()
    shutil.rmtree(running.directory, ignore_errors=True)
