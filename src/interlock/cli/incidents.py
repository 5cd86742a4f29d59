"""`interlock incidents`: what must not happen again, until a required gate asks for it."""

from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected
from interlock.cli.evals_online import document, target_of
from interlock.cli.output import show_object, show_rows, with_json

_PATH: Final = "/v1/incidents"
_FIELDS: Final = ("id", "state", "severity", "title", "source", "occurrences", "owner", "suite", "case_key", "repro")


@click.group("incidents")
def command() -> None:
    """Incidents."""


@command.command("list")
@click.option("--state")
@with_json
@connected
def listing(client: Client, *, as_json: bool, state: str | None) -> None:
    """List incidents, newest first."""
    columns = ("id", "state", "severity", "occurrences", "title")
    show_rows(client.rows(_PATH, state=state), columns, as_json=as_json)


@command.command("show")
@click.argument("incident")
@with_json
@connected
def show(client: Client, incident: str, *, as_json: bool) -> None:
    """Show an incident with its timeline."""
    show_object(client.get(f"{_PATH}/{incident}"), (*_FIELDS, "timeline"), as_json=as_json)


@command.command("open")
@click.option("--title", required=True)
@click.option("--severity", default="sev3", show_default=True, type=click.Choice(["sev1", "sev2", "sev3", "sev4"]))
@click.option("--source", default="person", show_default=True)
@click.option("--text", help="What came out; redacted before it is kept.")
@click.option("--route")
@click.option("--taxonomy")
@click.option("--request", "request_id", help="The request that it was seen in.")
@with_json
@connected
def opening(client: Client, *, as_json: bool, **given: Any) -> None:
    """Report an incident; a known one counts one more occurrence."""
    show_object(client.post(_PATH, given), _FIELDS, as_json=as_json)


@command.command("case")
@click.argument("incident")
@click.argument("file", type=click.Path(path_type=Path))
@with_json
@connected
def case(client: Client, incident: str, file: Path, *, as_json: bool) -> None:
    """Make the incident a case: FILE holds suite, key, oracle, bad and reference."""
    found = client.post(f"{_PATH}/{incident}/case", document(file))
    show_object(found, ("case_id", "suite", "suite_version", "admission"), as_json=as_json)


@command.command("reproduce")
@click.argument("incident")
@click.option("--candidate", required=True, metavar="TARGET", help="route:NAME[@V] or recorded:FILE.")
@click.option("--tries", default=10, show_default=True, type=click.IntRange(1, 100))
@click.option("--oracle", type=click.Path(path_type=Path), help="A file whose `oracle` says what failing is.")
@with_json
@connected
def reproduce(client: Client, incident: str, *, as_json: bool, **given: Any) -> None:
    """Try the incident's input on a target; the incident then says how often it failed."""
    body: dict[str, Any] = {"candidate": target_of(given["candidate"]), "tries": given["tries"]}
    if given["oracle"] is not None:
        body["oracle"] = document(given["oracle"]).get("oracle")
    found = client.post(f"{_PATH}/{incident}/reproduce", body)
    show_object(found, ("id", "state", "candidate_digest"), as_json=as_json)


def _moving(act: str, text: str) -> None:
    @command.command(act, help=text)
    @click.argument("incident")
    @click.option("--note", required=True, help="Goes into the timeline and the audit chain.")
    @with_json
    @connected
    def move(client: Client, incident: str, note: str, *, as_json: bool) -> None:
        show_object(client.post(f"{_PATH}/{incident}/{act}", {"note": note}), _FIELDS, as_json=as_json)


for _act, _text in (
    ("triage", "Say that it is somebody's."),
    ("dismiss", "Say that it is none."),
    ("close", "Close what a required gate guards."),
):
    _moving(_act, _text)
