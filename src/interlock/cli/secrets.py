"""`interlock secrets`: values that only edges and workers can open. Nothing here can print one."""

import sys
import time

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_object, show_rows, with_json

_PROBE_S = 0.25


@click.group("secrets")
def command() -> None:
    """Secrets of providers and connectors."""


@command.command("set")
@click.argument("name")
@click.option("--workspace", help="Workspace it belongs to; the whole organization by default.")
@with_json
@connected
def set_secret(client: Client, name: str, workspace: str | None, *, as_json: bool) -> None:
    """Store the secret that stands on standard input."""
    is_typed = sys.stdin.isatty()
    value = click.prompt("value", hide_input=True) if is_typed else sys.stdin.read().removesuffix("\n")
    if not value:
        raise click.UsageError("standard input is empty")
    query = {"workspace_id": workspace}
    made = client.call("PUT", f"/admin/v1/secrets/{quoted(name)}", body={"value": value}, query=query)
    show_object(made, ("id", "name", "last4"), as_json=as_json)


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List secrets by name and last four characters."""
    columns = ("id", "name", "workspace_id", "last4", "kek_id", "updated_at")
    show_rows(client.rows("/admin/v1/secrets"), columns, as_json=as_json)


@command.command("rotate")
@with_json
@connected
def rotate(client: Client, *, as_json: bool) -> None:
    """Wrap every data key again under a new master key, while everything runs; returns when it is done."""
    state = client.post("/admin/v1/secrets/rotate")
    while state["state"] != "done":
        time.sleep(_PROBE_S)
        state = client.get("/admin/v1/secrets/rotate")
    show_object(state, ("state", "rewrapped", "kek_id"), as_json=as_json)
