"""`interlock kill`: stop something now. A switch only ever stops; it cannot start anything."""

from typing import Any

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_object, show_rows, with_json

MODES = ("reject", "drain", "abort")


@click.group("kill")
def command() -> None:
    """Kill switches."""


@command.command("on")
@click.argument("scope")
@click.argument("target")
@click.option("--mode", required=True, type=click.Choice(MODES))
@click.option("--reason", required=True)
@with_json
@connected
def turn_on(client: Client, *, as_json: bool, **switch: Any) -> None:
    """Stop TARGET of SCOPE: gateway '*', organization, workspace, key, route, deployment or provider."""
    made = client.post("/admin/v1/kill-switches", switch)
    show_object(made, ("id", "scope", "target", "mode", "propagation_ms", "acknowledged", "missing"), as_json=as_json)


@command.command("off")
@click.argument("switch", metavar="ID")
@click.option("--reason", required=True)
@with_json
@connected
def turn_off(client: Client, switch: str, reason: str, *, as_json: bool) -> None:
    """Lift a switch."""
    lifted = client.call("DELETE", f"/admin/v1/kill-switches/{quoted(switch)}", body={"reason": reason})
    show_object(lifted, ("id", "scope", "target", "propagation_ms"), as_json=as_json)


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List the switches that are on."""
    columns = ("id", "scope", "target", "mode", "reason", "created_at")
    show_rows(client.rows("/admin/v1/kill-switches"), columns, as_json=as_json)
