"""`interlock flags`: feature flags. Does not stop anything in an emergency; that is `kill`."""

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json


@click.group("flags")
def command() -> None:
    """Feature flags."""


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List flags."""
    columns = ("name", "kind", "is_on", "rollout", "targets", "until", "reason")
    show_rows(client.rows("/admin/v1/flags"), columns, as_json=as_json)


@command.command("set")
@click.argument("name")
@click.option("--on", "state", flag_value="on")
@click.option("--off", "state", flag_value="off")
@click.option("--rollout", type=click.FloatRange(0, 100), help="Percent of workspaces.")
@click.option("--target", help="Organization or workspace that gets it.")
@click.option("--until", help="Date at which it expires, YYYY-MM-DD.")
@click.option("--reason", required=True)
@with_json
@connected
def set_flag(client: Client, state: str | None, rollout: float | None, *, as_json: bool, **given: str | None) -> None:
    """Turn a flag on or off, or roll it out to a share of the workspaces."""
    if (state is None) is (rollout is None):
        raise click.UsageError("give exactly one of --on, --off and --rollout")
    body = {**given, "state": state, "rollout": rollout}
    show_object(client.post("/admin/v1/flags", body), ("id", "name"), as_json=as_json)
