"""`interlock trace ID`: the story of one request, as lines. Does not show content; stories hold none."""

import click

from interlock.cli.client import Client, RefusedError, connected, quoted
from interlock.cli.output import cell, show_json, with_json
from interlock.foundation.telemetry import trace_lines

KEPT = "stories are kept for 14 days unless the workspace says otherwise"


@click.command("trace")
@click.argument("request_id", metavar="ID")
@with_json
@connected
def command(client: Client, request_id: str, *, as_json: bool) -> None:
    """Tell what happened to a request, and why."""
    try:
        story = client.get(f"/v1/requests/{quoted(request_id)}")
    except RefusedError as error:
        if error.status == 404:
            raise click.ClickException(
                f"request_not_found: no request {request_id} that the key may see; {KEPT}"
            ) from None
        raise
    if as_json:
        show_json(story)
        return
    for line in trace_lines(story):
        click.echo(cell(line))
