"""`interlock usage`: what was used and what it cost. Adds nothing up; the platform does."""

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_rows, with_json

_FIELD = {"key": "key_id", "workspace": "workspace_id", "model": "model", "tag": "tag"}


@click.command("usage")
@click.option("--by", "group_by", type=click.Choice(list(_FIELD)), default="model", show_default=True)
@click.option("--bucket", type=click.Choice(["minute", "hour", "day"]), default="hour", show_default=True)
@click.option("--from", "from_", help="RFC 3339 time; a day ago by default.")
@click.option("--to", "until", help="RFC 3339 time; now by default.")
@with_json
@connected
def command(client: Client, *, group_by: str, bucket: str, from_: str | None, until: str | None, as_json: bool) -> None:
    """Show usage and cost by key, workspace, model or tag."""
    asked = {"group_by": group_by, "bucket": bucket, "from": from_, "to": until}
    found = client.rows("/v1/usage", **{name: value for name, value in asked.items() if value is not None})
    figures = ("requests", "refused", "unpriced", "input_tokens", "output_tokens", "cost_usd")
    columns = ("bucket_at", _FIELD[group_by], *figures)
    show_rows(found, columns, as_json=as_json)
