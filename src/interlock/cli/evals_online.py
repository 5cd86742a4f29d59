"""`interlock evals suites|run|runs|show|cancel|evidence`: suites and runs of a running platform.

Judges nothing itself.
"""

import time
from pathlib import Path
from typing import Any, Final

import click
import yaml

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json

_SUITES: Final = "/v1/evals/suites"
_RUNS: Final = "/v1/evals/runs"
_POLL_S: Final = 0.3
_RUN_FIELDS: Final = ("id", "state", "suite", "suite_version", "expected", "candidate_digest", "evidence_digest")
_ENDED: Final = frozenset({"complete", "failed", "canceled"})


def target_of(text: str) -> dict[str, Any]:
    """Read `route:NAME[@V]` or `recorded:FILE`. Raises `click.UsageError`."""
    kind, _, rest = text.partition(":")
    if kind == "route" and rest:
        name, _, version = rest.partition("@")
        return {"kind": "route", "route": name} | ({"version": int(version)} if version.isdigit() else {})
    if kind == "recorded" and rest:
        found = document(Path(rest))
        return {"kind": "recorded", **found}
    raise click.UsageError(f"{text!r}: write a target as route:NAME[@VERSION] or recorded:FILE")


def document(path: Path) -> dict[str, Any]:
    """Read an object from a YAML or JSON file. Raises `click.UsageError`."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"{path}: an object is expected")
    return found


@click.group("suites")
def suites() -> None:
    """Suites by content."""


@suites.command("list")
@with_json
@connected
def list_suites(client: Client, *, as_json: bool) -> None:
    """List suites, the newest version of each."""
    show_rows(client.rows(_SUITES), ("name", "version", "kind", "cases", "suite_digest"), as_json=as_json)


@suites.command("show")
@click.argument("name")
@with_json
@connected
def show_suite(client: Client, name: str, *, as_json: bool) -> None:
    """Show the newest version of a suite."""
    fields = ("name", "version", "kind", "cases", "added", "changed", "removed", "suite_digest", "created_at")
    show_object(client.get(f"{_SUITES}/{name}"), fields, as_json=as_json)


@suites.command("push")
@click.argument("file", type=click.Path(path_type=Path))
@with_json
@connected
def push_suite(client: Client, file: Path, *, as_json: bool) -> None:
    """Publish a suite from FILE (YAML or JSON); the same content keeps its version."""
    show_object(client.post(_SUITES, document(file)), ("name", "version", "cases", "suite_digest"), as_json=as_json)


@click.command("run")
@click.argument("suite")
@click.option("--candidate", required=True, help="route:NAME[@V] or recorded:FILE.")
@click.option("--baseline", help="The same for the arm it is compared with.")
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless it is complete.")
@with_json
@connected
def run(client: Client, suite: str, *, as_json: bool, **given: Any) -> None:
    """Run SUITE over one or two arms."""
    body = {"suite": suite, "epochs": given["epochs"], "seed": given["seed"]}
    body["candidate"] = target_of(given["candidate"])
    if given["baseline"]:
        body["baseline"] = target_of(given["baseline"])
    found = client.post(_RUNS, body)
    while given["wait"] and found["state"] not in _ENDED:
        time.sleep(_POLL_S)
        found = client.get(f"{_RUNS}/{found['id']}")
    show_object(found, _RUN_FIELDS, as_json=as_json)
    if given["wait"] and found["state"] != "complete":
        raise SystemExit(1)


@click.command("runs")
@click.option("--state")
@with_json
@connected
def runs(client: Client, *, as_json: bool, state: str | None) -> None:
    """List runs, newest first."""
    columns = ("id", "state", "suite", "suite_version", "expected", "created_at")
    show_rows(client.rows(_RUNS, state=state), columns, as_json=as_json)


@click.command("show")
@click.argument("run_id", metavar="RUN")
@with_json
@connected
def show(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show a run with its figures."""
    found = client.get(f"{_RUNS}/{run_id}")
    show_object(found, (*_RUN_FIELDS, "completeness", "arms", "paired", "power", "reason"), as_json=as_json)


@click.command("cancel")
@click.argument("run_id", metavar="RUN")
@with_json
@connected
def cancel(client: Client, run_id: str, *, as_json: bool) -> None:
    """Stop a run; what was scored stays."""
    show_object(client.post(f"{_RUNS}/{run_id}/cancel"), _RUN_FIELDS, as_json=as_json)


@click.command("evidence")
@click.argument("run_id", metavar="RUN")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="File to write.")
@connected
def evidence(client: Client, run_id: str, output: Path) -> None:
    """Write the sealed evidence of a run to a file."""
    content = client.call("GET", f"{_RUNS}/{run_id}/evidence", is_file=True)
    output.write_bytes(content)
    click.echo(f"{output}: {len(content)} bytes")


COMMANDS: Final = (suites, run, runs, show, cancel, evidence)
