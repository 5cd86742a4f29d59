"""`interlock gates`: what a version must show before it gets weight. Admits nothing by hand."""

from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected
from interlock.cli.evals_online import document, target_of
from interlock.cli.output import show_object, show_rows, with_json

_PATH: Final = "/v1/gates"
_FIELDS: Final = ("id", "name", "route", "mode", "risk_tier", "version", "armed", "armed_reasons", "policy_digest")


@click.group("gates")
def command() -> None:
    """Gates of routes."""


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List gates by name."""
    show_rows(client.rows(_PATH), ("id", "name", "route", "mode", "armed"), as_json=as_json)


@command.command("show")
@click.argument("gate")
@with_json
@connected
def show(client: Client, gate: str, *, as_json: bool) -> None:
    """Show a gate with its controls and live verdicts."""
    show_object(client.get(f"{_PATH}/{gate}"), (*_FIELDS, "controls", "power", "verdicts_live"), as_json=as_json)


@command.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@with_json
@connected
def apply(client: Client, file: Path, *, as_json: bool) -> None:
    """Make the gate in FILE (YAML or JSON), or change the one of its name."""
    body = document(file)
    known = [each for each in client.rows(_PATH)["data"] if each["name"] == body.get("name")]
    found = client.call("PUT", f"{_PATH}/{known[0]['id']}", body=body) if known else client.post(_PATH, body)
    show_object(found, _FIELDS, as_json=as_json)


@command.command("controls")
@click.argument("gate")
@click.option("--baseline", help="recorded:FILE to build the controls from; else the newest complete run.")
@with_json
@connected
def controls(client: Client, gate: str, baseline: str | None, *, as_json: bool) -> None:
    """Prove that each check can fail, and need not. Exit 1 when the gate is not armed after it."""
    found = client.post(f"{_PATH}/{gate}/controls", {"baseline": baseline and target_of(baseline)})
    show_object(found, (*_FIELDS, "controls"), as_json=as_json)
    raise SystemExit(0 if found["armed"] else 1)


@command.command("evaluate")
@click.argument("gate")
@click.option("--candidate", required=True, help="route:NAME[@V] or recorded:FILE.")
@click.option("--baseline", help="The same for what it is compared with.")
@click.option("--wait", "wait_s", default=60.0, show_default=True, type=click.FloatRange(0, 60), help="Seconds.")
@with_json
@connected
def evaluate(client: Client, gate: str, *, as_json: bool, **given: Any) -> None:
    """Ask for a verdict. Exit 0 for PASS, 1 for anything else."""
    body = {"candidate": target_of(given["candidate"]), "wait_s": given["wait_s"]}
    if given["baseline"]:
        body["baseline"] = target_of(given["baseline"])
    found = client.post(f"{_PATH}/{gate}/evaluate", body)
    show_object(found, ("id", "state", "verdict", "admits", "attempt", "reasons", "expires_at"), as_json=as_json)
    raise SystemExit(0 if found.get("verdict") == "PASS" else 1)


@command.command("verdicts")
@click.argument("gate")
@with_json
@connected
def verdicts(client: Client, gate: str, *, as_json: bool) -> None:
    """List the verdicts of a gate, newest first."""
    columns = ("id", "verdict", "admits", "artifact_digest", "attempt", "expires_at")
    show_rows(client.rows(f"{_PATH}/{gate}/verdicts"), columns, as_json=as_json)
