"""Where settings come from, and what `doctor` says about a machine on which the platform cannot run.

The disk is a real full file system and the database a real one without `vector`; both need what the test then asks for.
"""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from interlock.foundation.store.binaries import find_binaries
from tests.support.platform import PATIENT, ROOT

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
SOURCE = re.compile(r"default|file:\d+|env:INTERLOCK_[A-Z0-9_]+|flag")
VECTOR = ("vector.control", "vector--*.sql")


def interlock(*arguments, env=None):
    command = [sys.executable, "-m", "interlock", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
        env=os.environ | PATIENT | (env or {}),
    )


def test_every_setting_names_its_source(tmp_path):
    file = tmp_path / "interlock.toml"
    file.write_text("[edge]\ninflight_max = 77\n")
    env = {"INTERLOCK_SUPERVISOR__DEATHS_MAX": "9"}
    shown = interlock("config", "show", "--json", "--config", str(file), env=env)
    assert shown.returncode == 0, shown.stderr
    rows = {row["name"]: row for row in json.loads(shown.stdout)["data"]}
    assert len(rows) > 50
    assert [name for name, row in rows.items() if not SOURCE.fullmatch(row["source"])] == []
    assert (rows["edge.inflight_max"]["value"], rows["edge.inflight_max"]["source"]) == (77, "file:2")
    assert rows["supervisor.deaths_max"]["source"] == "env:INTERLOCK_SUPERVISOR__DEATHS_MAX"
    assert {name.partition(".")[0] for name in rows} >= {"edge", "supervisor", "store", "wire", "engine", "scheduler"}


@pytest.mark.parametrize("command", [("config", "show"), ("up", "--port", "0")], ids=["config show", "up"])
def test_a_misspelt_setting_is_refused_and_the_right_one_named(tmp_path, command):
    file = tmp_path / "interlock.toml"
    file.write_text("[edge]\ninflight_maxx = 77\n")
    data = ("--data", str(tmp_path / "data"))
    refused = interlock(*command, *data, "--config", str(file))
    assert refused.returncode == 2
    assert "did you mean edge.inflight_max?" in refused.stderr
    refused = interlock(*command, *data, env={"INTERLOCK_EDGE__INFLIGHT_MAXX": "1"})
    assert refused.returncode == 2
    assert "did you mean edge.inflight_max?" in refused.stderr


@contextmanager
def full_disk(folder):
    """Yield a data directory on a file system of 1 MiB without a free byte."""
    if os.geteuid() != 0:
        pytest.skip("a full file system of its own needs root to mount it")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.strip()}")
    try:
        data = folder / "data"
        data.mkdir(mode=0o700)
        with (data / "filler").open("wb", buffering=0) as filler:
            with suppress(OSError):
                filler.write(b"\0" * (2 << 20))
            with pytest.raises(OSError, match="No space"):
                filler.write(b"\0")
        yield data
    finally:
        subprocess.run(["umount", str(folder)], check=False)


@contextmanager
def database_without_vector():
    """Yield the URL of a running PostgreSQL whose installation has no `vector`."""
    binaries = find_binaries()
    if not binaries.origin.startswith("wheel"):
        pytest.skip(f"only the wheel's binaries are copied and pruned, these are of {binaries.origin}")
    folder = Path(tempfile.mkdtemp(prefix="il-bare-", dir="/tmp"))
    folder.chmod(0o755)
    who = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        root = os.path.commonpath(binaries.layout)
        for part in binaries.layout:
            shutil.copytree(part, folder / part.relative_to(root))
        for path in [path for pattern in VECTOR for path in folder.rglob(pattern)]:
            path.unlink()
        program = next(folder.rglob("bin/postgres")).parent
        place = folder / "p"
        place.mkdir()
        if who:
            shutil.chown(place, "nobody", who["group"])
        common = {"cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
        made = [program / "initdb", "-D", place / "d", "-U", "nobody", "--auth=trust", "--no-sync", "--locale=C"]
        subprocess.run(made, check=True, timeout=240, **common)
        served = [program / "postgres", "-D", place / "d", "-k", place, "-c", "listen_addresses="]
        process = subprocess.Popen(served, **common)
        try:
            deadline = time.monotonic() + 180
            while not (place / ".s.PGSQL.5432").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"postgresql://nobody@/postgres?host={place}"
        finally:
            process.terminate()
            process.wait(240)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_doctor_names_a_full_disk_a_busy_port_and_a_missing_pgvector_each_with_its_remedy(tmp_path):
    with (
        full_disk(tmp_path / "disk") as data,
        database_without_vector() as url,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = str(taken.getsockname()[1])
        arguments = ("doctor", "--data", str(data), "--port", port)
        told = interlock(*arguments, "--json", env={"DATABASE_URL": url})
        lines = interlock(*arguments, env={"DATABASE_URL": url})
    assert told.returncode == lines.returncode == 1
    failed = {row["name"]: row for row in json.loads(told.stdout)["data"] if row["status"] == "fail"}
    assert set(failed) == {"disk", "port", "pgvector"}, told.stdout
    assert len({row["remedy"] for row in failed.values()}) == 3
    assert "No space left" in failed["disk"]["finding"]
    assert port in failed["port"]["finding"]
    assert "pgvector" in failed["pgvector"]["remedy"]
    for name, row in failed.items():
        assert f"fail {name}: {row['finding']}; {row['remedy']}" in lines.stdout
