"""`interlock limits`: rate limits and how full they are. Does not decide which of them applies; `explain` asks."""

from pathlib import Path
from typing import Any

import click

from interlock.cli.client import Client, connect, connected
from interlock.cli.output import show_object, show_rows, with_json

SCOPES = ("organization", "workspace", "key", "tier")
DIMENSIONS = (
    "requests_per_minute",
    "tokens_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "concurrent_requests",
    "usd_per_day",
    "usd_per_month",
)


class _Figure(click.ParamType[int | float]):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number", param, ctx)
        return int(number) if number.is_integer() else number


@click.group("limits")
def command() -> None:
    """Rate limits."""


@command.command("set")
@click.option("--scope", required=True, type=click.Choice(SCOPES))
@click.option("--target", required=True, help="Id or name of what is limited.")
@click.option("--dimension", required=True, type=click.Choice(DIMENSIONS))
@click.option("--model", required=True, help="Alias, or '*'.")
@click.option("--limit", required=True, type=_Figure(), help="Whole, but for dollars.")
@click.option("--burst", type=_Figure(), help="Most at once of a limit of a minute; the limit by default.")
@click.option("--mode", type=click.Choice(["enforce", "observe"]), default="enforce", show_default=True)
@with_json
@connected
def set_limit(client: Client, *, as_json: bool, **given: Any) -> None:
    """Set a limit; the same scope, target, dimension and model replaces."""
    made = client.post("/admin/v1/limits", given)
    show_object(made, ("id", "version", "scope", "target", "dimension", "model", "limit", "burst"), as_json=as_json)


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List limits."""
    columns = ("id", "scope", "target", "dimension", "model", "limit", "burst", "mode")
    show_rows(client.rows("/admin/v1/limits"), columns, as_json=as_json)


@command.command("delete")
@click.argument("limit")
@with_json
@connected
def delete(client: Client, limit: str, *, as_json: bool) -> None:
    """Delete a limit, given by its id."""
    show_object(client.call("DELETE", f"/admin/v1/limits/{limit}"), ("id",), as_json=as_json)


@command.command("explain")
@click.option("--key", "api_key_id", required=True, help="Id of the key to look at.")
@click.option("--model", required=True, help="Alias.")
@click.option("--data", type=click.Path(path_type=Path), help="Data directory of the platform [./.interlock].")
@click.option("--url", help="Base URL of the platform; the caller's key is then INTERLOCK_API_KEY.")
@with_json
def explain(api_key_id: str, model: str, data: Path | None, url: str | None, *, as_json: bool) -> None:
    """Say which limits apply to a key and a model, and how full they are."""
    # `--key` names the key that is asked about, so the caller's own cannot be an option here.
    found = connect(data, url, None).get("/admin/v1/limits/explain", key=api_key_id, model=model)
    columns = ("id", "scope", "dimension", "model", "mode", "limit", "burst", "used", "refused_24h", "retry_at")
    show_rows(found, columns, as_json=as_json)
