"""`interlock rollouts`: a route's version on its way from a draft to stable, or back. Raises no weight by hand."""

from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json

_PATH = "/v1/rollouts"
_FIELDS = ("id", "state", "route", "from_version", "to_version", "stages", "stage", "weight", "decision", "lease_until")


@click.group("rollouts")
def command() -> None:
    """Rollouts of route versions."""


@command.command("list")
@click.option("--state", help="Only those in this state, such as canary.")
@with_json
@connected
def listing(client: Client, *, as_json: bool, state: str | None) -> None:
    """List rollouts, newest first."""
    columns = ("id", "state", "route", "to_version", "stage", "weight", "decision")
    show_rows(client.rows(_PATH, state=state), columns, as_json=as_json)


@command.command("show")
@click.argument("rollout")
@with_json
@connected
def show(client: Client, rollout: str, *, as_json: bool) -> None:
    """Show a rollout, what its monitor came to, and why."""
    found = client.get(f"{_PATH}/{rollout}")
    _show(found, as_json=as_json)
    if as_json:
        return
    for name, reading in found["monitor"].items():
        click.echo(
            f"{name}: {reading['bad']} bad of {reading['units']} canary units, e-value to roll back "
            f"{reading['e_rollback']:.3g} of {reading['threshold']:g}, to promote {reading['e_promote']:.3g} of 20"
        )
    for reason in found["reasons"]:
        click.echo(f"reason: {reason['code']}: {reason['text']}")


@command.command("create")
@click.option("--route", required=True, help="Alias of the route.")
@click.option("--version", required=True, type=click.IntRange(1))
@click.option("--stages", default="1,5,25,50,100", show_default=True, help="Percentages, rising.")
@click.option("--dwell", "dwell_s", type=float, default=600.0, show_default=True, help="Shortest stage, seconds.")
@click.option("--shadow", "shadow_s", type=float, default=0.0, show_default=True, help="Copies only, seconds.")
@with_json
@connected
def create(client: Client, *, as_json: bool, stages: str, **given: Any) -> None:
    """Make a rollout, as a draft."""
    try:
        percentages = [float(each) for each in stages.split(",")]
    except ValueError:
        raise click.UsageError("--stages are numbers, such as 5,50,100.") from None
    _show(client.post(_PATH, {**given, "stages": percentages}), as_json=as_json)


def _moving(act: str, text: str) -> None:
    @command.command(act, help=text)
    @click.argument("rollout")
    @click.option("--reason", help="Goes into the audit chain.")
    @with_json
    @connected
    def move(client: Client, rollout: str, reason: str | None, *, as_json: bool) -> None:
        _show(client.post(f"{_PATH}/{rollout}/{act}", {"reason": reason}), as_json=as_json)


for _act, _text in (
    ("start", "Put the first stage into force; needs live evidence."),
    ("pause", "Keep the weight as it is."),
    ("resume", "Let the monitor go on; needs live evidence."),
    ("rollback", "Give everything back to the stable version."),
    ("kill", "End a rollout whatever it waits for."),
    ("unkill", "Bring a killed rollout back as a draft; needs two people."),
):
    _moving(_act, _text)


@command.command("looks")
@click.argument("rollout")
@with_json
@connected
def looks(client: Client, rollout: str, *, as_json: bool) -> None:
    """List the looks of a rollout, newest first."""
    show_rows(client.rows(f"{_PATH}/{rollout}/looks"), ("look", "at", "weight", "decision"), as_json=as_json)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    show_object(found, _FIELDS, as_json=as_json)
