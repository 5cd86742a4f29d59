"""A platform of its own for the leak test: started in a folder that goes away with it, spoken to over HTTP.

Decides nothing; it only starts, carries calls and ends.
"""

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.leaks.fuzz import Told

_READY_S: Final = 600.0
_DRAIN_S: Final = 120.0
_TIMEOUT_S: Final = 600.0
# What is found out must not depend on how fast the machine is, nor on whether it stands still meanwhile.
_SETTINGS: Final = {
    "INTERLOCK_CONTROL__MUTATIONS_PER_S": "10000",
    "INTERLOCK_CONTROL__REFUSALS_AUDITED_PER_S": "1",
    "INTERLOCK_EDGE__CONNECT_S": "240",
    "INTERLOCK_EDGE__CONTROL_S": "600",
    "INTERLOCK_RETRIEVAL__ANSWER_DEADLINE_S": "500",
    "INTERLOCK_RETRIEVAL__FRESH_WAIT_S": "240",
    "INTERLOCK_RETRIEVAL__LEASE_TTL_S": "300",
    "INTERLOCK_RETRIEVAL__SEARCH_DEADLINE_S": "240",
    "INTERLOCK_STORE__CONNECT_TIMEOUT_MS": "60000",
    "INTERLOCK_STORE__IDLE_TRANSACTION_S": "600",
    "INTERLOCK_STORE__POOL_WAIT_MS": "60000",
    "INTERLOCK_STORE__PULSE_TIMEOUT_MS": "60000",
    "INTERLOCK_STORE__START_TIMEOUT_S": "240",
    "INTERLOCK_STORE__STATEMENT_TIMEOUT_APP_S": "300",
    "INTERLOCK_SUPERVISOR__HEARTBEAT_TIMEOUT_S": "600",
    "INTERLOCK_SUPERVISOR__READY_TIMEOUT_S": "240",
    "INTERLOCK_WIRE__HEADER_S": "600",
    "INTERLOCK_WIRE__KEEP_ALIVE_REQUESTS_MAX": "1000000",
    "INTERLOCK_WIRE__KEEP_ALIVE_S": "600",
}


class Line:
    """Calls over one connection that is kept; implements `Caller`."""

    def __init__(self, url: str, owner_key: str) -> None:
        self._owner_key = owner_key
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=_TIMEOUT_S)

    def __call__(self, key: str | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> Told:
        headers = {"authorization": f"Bearer {key or self._owner_key}", "content-type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, headers)
        response = self._connection.getresponse()
        raw = response.read()
        return Told(response.status, raw, json.loads(raw) if raw else None)


@contextmanager
def scratch_platform(base: Path | None) -> Iterator[tuple[Line, Path]]:
    """Yield a line to a fresh platform and its folder; everything ends and goes away after."""
    folder = Path(tempfile.mkdtemp(prefix="interlock-leaktest-", dir=base))
    folder.chmod(0o711)
    command = [
        sys.executable, "-m", "interlock", "up", "--data", str(folder), "--port", "0", "--engine", "none",
        "--edge-workers", "1",
    ]  # fmt: skip
    # Never the store of a platform that somebody uses: the walk writes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("INTERLOCK_", "DATABASE_"))}
    log = (folder.parent / f"{folder.name}.log").open("w+b")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**inherited, **_SETTINGS})  # noqa: S603 - our own interpreter and arguments
    try:
        url = _ready(process)
        yield Line(url, (folder / "owner.key").read_text(encoding="ascii").strip()), folder
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        Path(log.name).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def spoken(folder: Path, words: list[str]) -> list[str]:
    """Return the words that stand in the logs of a platform, which never hold text of documents."""
    text = b"".join(each.read_bytes() for each in sorted((folder / "logs").rglob("*")) if each.is_file())
    return [word for word in words if word.encode() in text]


def _ready(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _READY_S)
    line = process.stdout.readline().decode() if readable else ""
    if not line.startswith("ready "):
        raise click.ClickException("the platform of the test did not start")
    return line.split()[1]
