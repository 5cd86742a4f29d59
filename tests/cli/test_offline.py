"""Commands that need no running platform."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing, suppress

import click
import pytest
from click.testing import CliRunner, Result

from interlock.cli import main
from interlock.cli.routes import _fallback, _target
from interlock.foundation.clock import SystemDice
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.flags import open_local
from interlock.foundation.identity.domain.keys import make_key
from interlock.foundation.store.binaries import Binaries
from interlock.foundation.supervisor import DataDirectory, UpOptions, doctor, save_options, store_checks
from interlock.foundation.supervisor.collector_check import collector_finding
from interlock.foundation.supervisor.doctor import Verdict
from interlock.foundation.telemetry import OtlpConfig
from interlock.wiring.ground import forward_proxy
from tests.support.collector import collecting

SIZING = ["capacity", "gateway", "--rpm", "4000", "--input-tokens", "1200", "--output-tokens", "450"]


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    found = CliRunner().invoke(main, list(arguments), env={"DATABASE_URL": None, **(env or {})})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_the_sizing_case_prints_exactly_its_lines():
    found = run(*SIZING)
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "tokens_per_minute: 6600000",
        "tokens_per_second: 110000",
        "requests_per_second: 66.67",
        "output_tokens_per_second: 30000",
        "concurrent_streams: 600",
        "edge_cores: 0.69",
        "edge_workers: 2",
        "ingress_bytes_per_second: 320000",
        "egress_bytes_per_second: 6000000",
        "requests_per_day: 5760000",
        "story_bytes_per_day: 6336000000",
    ]
    assert json.loads(run(*SIZING, "--json").stdout)["edge_workers"] == 2


@pytest.mark.parametrize("rpm", ["0", "-1", "nan", "many"])
def test_a_load_that_is_no_load_is_a_usage_error(rpm):
    assert run("capacity", "gateway", "--rpm", rpm, "--input-tokens", "1", "--output-tokens", "1").exit_code == 2


def test_the_roles_of_a_database_of_your_own_are_printed_as_sql():
    found = run("migrate", "--print-roles")
    assert found.exit_code == 0
    assert "CREATE ROLE interlock_app NOLOGIN NOSUPERUSER NOBYPASSRLS" in found.stdout
    assert all(line.endswith(";") for line in found.stdout.splitlines())


def test_a_command_that_only_asks_a_platform_loads_none_of_its_systems():
    asked = ["scheduler/pools/show", "keys/list", "limits/list", "routes/list", "rollouts", "search", "users", "groups"]
    program = (
        "import sys; from interlock.cli import main\n"
        f"for path in {asked}:\n"
        "    found = main\n"
        "    for name in path.split('/'): found = found.commands[name]\n"
        "print(*{each.partition('.')[0] for each in sys.modules} & {'asyncpg', 'numpy', 'structlog', 'msgspec'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_command_without_a_platform_says_so_on_one_line(tmp_path):
    for command in (["orgs", "list"], ["keys", "list"], ["trace", "req_0"]):
        found = run(*command, "--data", str(tmp_path / "none"))
        assert found.exit_code == 1
        assert found.stderr.startswith("Error: no platform runs on ")
        assert found.stderr.count("\n") == 1


def test_an_address_where_nothing_answers_is_named():
    with closing(_deaf_port()) as deaf:
        port = deaf.getsockname()[1]
        found = run("orgs", "list", "--url", f"http://127.0.0.1:{port}", "--key", "il_live_x")
    assert found.exit_code == 1
    assert f"no answer from http://127.0.0.1:{port}" in found.stderr


def test_an_unknown_role_or_engine_is_a_usage_error():
    assert "nobody is no role" in run("up", "--roles", "edge,nobody").stderr
    assert run("up", "--roles", "edge,nobody").exit_code == 2
    for url in ("ftp://x", "http://", "http://user:secret@host/v1", "http://host:99999"):
        refused = run("up", "--engine", url)
        assert refused.exit_code == 2
        assert "secret" not in refused.output


def test_a_pool_is_for_an_engine_by_its_url():
    for arguments in (
        ("--pool", "fast"),
        ("--engine", "none", "--pool", "fast"),
        ("--pool", "fast", "--engine", "none"),
    ):
        refused = run("up", "--pool", "fast", *arguments)
        assert (refused.exit_code, "it goes with --engine URL" in refused.stderr) == (2, True)
    for name in ("Fast", "", "embedded", "a/b"):
        assert run("up", "--engine", "http://127.0.0.1:9/v1", "--pool", name).exit_code == 2


def findings(*arguments: str) -> dict[str, str]:
    found = run("doctor", *arguments)
    rows = [line.split(": ", 1) for line in found.stdout.splitlines()]
    verdicts = dict(row[0].split(" ")[::-1] for row in rows)
    assert found.exit_code == ("fail" in verdicts.values())
    return verdicts | {f"{name} says": text for (_, name), text in ((row[0].split(" "), row[1]) for row in rows)}


def test_doctor_finds_nothing_wrong_with_a_place_that_can_be_used(tmp_path):
    found = findings("--data", str(tmp_path / "new"), "--port", str(_free_port()))
    assert "fail" not in found.values()
    assert found["pgvector"] == found["store"] == "ok"
    assert not (tmp_path / "new").exists()


def test_doctor_names_a_busy_port(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        found = findings("--data", str(tmp_path), "--port", str(port))
    assert found["port"] == "fail"
    assert found["port says"] == (
        f"{port} on 127.0.0.1 is taken by another program; stop that program or start with another --port than {port}"
    )


def test_doctor_looks_at_the_port_of_the_last_up(tmp_path):
    directory = DataDirectory(tmp_path)
    directory.prepare()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        save_options(UpOptions(data=str(tmp_path), port=taken.getsockname()[1]))
        assert findings("--data", str(tmp_path))["port"] == "fail"


def test_doctor_names_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: _Usage(free=5 << 20, total=1 << 40))
    found = findings("--data", str(tmp_path), "--port", str(_free_port()))
    assert found["disk"] == "fail"
    assert "5 MiB of 1024.0 GiB free" in found["disk says"]
    assert "move the data directory to a larger disk" in found["disk says"]


def test_doctor_names_a_missing_pgvector(tmp_path, monkeypatch):
    bare = Binaries(tmp_path / "pginstall" / "bin", "18.6", "a build without it")
    (tmp_path / "pginstall" / "share" / "extension").mkdir(parents=True)
    (tmp_path / "pginstall" / "share" / "extension" / "plpgsql.control").write_text("")
    monkeypatch.setattr(store_checks, "find_binaries", lambda: bare)
    found = findings("--data", str(tmp_path / "new"), "--port", str(_free_port()))
    assert found["pgvector"] == "fail"
    assert found["pgvector says"].startswith("a build without it has no extension vector; install pgvector")


def test_doctor_names_a_database_that_does_not_answer(tmp_path):
    with closing(_deaf_port()) as deaf:
        url = f"postgresql://nobody@127.0.0.1:{deaf.getsockname()[1]}/none"
        found = run("doctor", "--data", str(tmp_path), "--port", str(_free_port()), env={"DATABASE_URL": url})
    assert found.exit_code == 1
    assert "fail store: no answer: ConnectionRefusedError" in found.stdout


def test_doctor_names_keys_that_others_can_read(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.pepper.write_bytes(b"pepper")
    directory.pepper.chmod(0o644)
    found = findings("--data", str(directory.root), "--port", str(_free_port()))
    assert found["file_modes"] == "fail"
    assert f"chmod go-rw {directory.pepper}" in found["file_modes says"]


def test_doctor_refuses_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = findings("--data", str(tmp_path / "link"), "--port", str(_free_port()))
    assert found["data_directory"] == "fail"


def test_doctor_says_whether_a_collector_of_spans_is_there_and_takes_them(tmp_path, monkeypatch):
    arguments = ("--data", str(tmp_path), "--port", str(_free_port()))
    assert findings(*arguments)["otlp says"] == "nothing is exported, otlp.endpoint is not set"
    with collecting() as collector, closing(_deaf_port()) as deaf:
        monkeypatch.setenv("INTERLOCK_OTLP__ENDPOINT", collector.url)
        monkeypatch.setenv("INTERLOCK_OTLP__HEADERS", "x-team=shop")
        assert findings(*arguments)["otlp"] == "ok"
        assert (collector.headers[0]["x-team"], collector.spans) == ("shop", [])
        collector.status = 403
        found = findings(*arguments)
        assert found["otlp says"].startswith(f"{collector.url} refuses with 403; correct otlp.headers")
        monkeypatch.setenv("INTERLOCK_OTLP__ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        found = findings(*arguments)
    assert found["otlp"] == "warn"
    assert "ConnectionRefusedError" in found["otlp says"]
    monkeypatch.setenv("INTERLOCK_OTLP__ENDPOINT", "collector:4318")
    assert "otlp.endpoint is no http address" in run("doctor", *arguments).stdout


def test_doctor_tells_what_a_running_platform_lost_of_its_spans():
    lines = [
        f'interlock_telemetry_otlp_requests_total{{result="{result}"}} {count}.0'
        for result, count in (("exported", 90), ("dropped", 2), ("refused", 5))
    ]
    with collecting() as collector:
        found = collector_finding(OtlpConfig(endpoint=collector.url), "\n".join(lines).encode())
        clean = collector_finding(OtlpConfig(endpoint=collector.url), lines[0].encode())
    assert (found.verdict, "lost 7 requests" in found.finding) == (Verdict.WARN, True)
    assert clean.verdict is Verdict.OK


def test_doctor_names_settings_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERLOCK_OTLP__TIMEOUT_S", "soon")
    found = run("doctor", "--data", str(tmp_path), "--port", str(_free_port()))
    assert (found.exit_code, "fail settings: " in found.stdout) == (1, True)


def test_doctor_as_json(tmp_path):
    found = run("doctor", "--data", str(tmp_path / "new"), "--port", str(_free_port()), "--json")
    rows = json.loads(found.stdout)["data"]
    assert {"status", "name", "finding", "remedy"} == set(rows[0])


def test_every_command_has_help_and_a_docstring():
    names = run("--help").stdout
    for name in main.commands:
        assert name in names
        assert run(name, "--help").exit_code == 0


class _Usage:
    def __init__(self, free: int, total: int) -> None:
        self.free, self.total, self.used = free, total, total - free


def _deaf_port() -> socket.socket:
    """A port on which nobody listens, and which nobody else gets while it is held."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


def _free_port() -> int:
    """A free port below those that the kernel gives away by itself, so that no other test gets it meanwhile."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with closing(socket.socket()) as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def test_a_local_switch_is_a_signed_file_that_needs_no_platform(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    at = ("--local", "--data", str(directory.root))
    assert run("kill", "on", "gateway", "*", "--mode", "reject", "--reason", "leak", *at).exit_code == 1
    directory.prepare()
    directory.key_file(directory.pepper, lambda: b"pepper" * 6)
    made = json.loads(run("kill", "on", "gateway", "*", "--mode", "reject", "--reason", "leak", *at, "--json").stdout)
    file = directory.kill_dir / f"{made['id']}.kill"
    assert file.stat().st_mode & 0o777 == 0o600
    kill = open_local(file.read_bytes(), directory.pepper.read_bytes())
    assert (kill.scope, kill.target, kill.mode, kill.reason, kill.is_local) == ("gateway", "*", "reject", "leak", True)
    with pytest.raises(ValueError, match="signature"):
        open_local(file.read_bytes().replace(b"reject", b"drain"), directory.pepper.read_bytes())
    assert [row["id"] for row in json.loads(run("kill", "list", *at, "--json").stdout)["data"]] == [made["id"]]
    assert run("kill", "off", made["id"], *at).exit_code == 0
    assert not file.exists()
    assert run("kill", "off", made["id"], *at).exit_code == 1


@pytest.mark.parametrize(
    ("scope", "target"), [("gateway", "x"), ("workspace", "storefront"), ("key", "ws_1"), ("moon", "x")]
)
def test_a_local_switch_on_nothing_is_a_usage_error(tmp_path, scope, target):
    directory = DataDirectory(tmp_path)
    directory.prepare()
    directory.key_file(directory.pepper, lambda: b"pepper" * 6)
    at = ("--mode", "reject", "--reason", "r", "--local", "--data", str(tmp_path))
    assert run("kill", "on", scope, target, *at).exit_code == 2
    assert list(directory.kill_dir.iterdir()) == []


def test_a_key_is_checked_without_asking_anybody():
    key = make_key("live", SystemDice()).text
    assert run("keys", "check", key).exit_code == 0
    wrong = run("keys", "check", key[:-1] + ("0" if key[-1] != "0" else "1"))
    assert wrong.exit_code == 1
    assert key[10:40] not in wrong.output
    assert run("keys", "check", "sk-something").exit_code == 1


def test_targets_and_fallbacks_of_a_route_are_written_as_pairs():
    assert _target("small") == {"deployment": "small"}
    assert _target("small=2.5") == {"deployment": "small", "weight": 2.5}
    with pytest.raises(click.BadParameter):
        _target("small=much")
    assert _fallback("large=error,limited") == {"deployment": "large", "on": ["error", "limited"]}
    assert len(_fallback("large")["on"]) == 5


def test_a_command_that_has_said_its_word_ends_whatever_threads_a_library_left_behind():
    """The process would else wait for a thread that never ends."""
    program = (
        "import threading\n"
        "from interlock.cli.output import leave\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "print('equal: 48')\n"
        "leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "equal: 48\n", "")


def test_a_proxy_that_there_cannot_be_is_named_before_any_role_starts(monkeypatch):
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example")
    with pytest.raises(BrokenWorldError, match="HTTPS_PROXY is http://"):
        forward_proxy()
