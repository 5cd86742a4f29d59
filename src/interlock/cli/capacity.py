"""`interlock capacity`: how much machine a load needs. Needs no running platform and measures nothing."""

import dataclasses
from typing import Any

import click

from interlock.cli.output import show_json, with_json
from interlock.gateway.domain.capacity import Load, size


@click.group("capacity")
def command() -> None:
    """Sizing."""


@command.command("gateway")
@click.option("--rpm", required=True, type=float, help="Requests a minute.")
@click.option("--input-tokens", required=True, type=float, help="Input tokens of a request.")
@click.option("--output-tokens", required=True, type=float, help="Output tokens of a request.")
@click.option("--stream-tokens-per-second", default=50.0, show_default=True, type=float)
@click.option("--us-per-event", default=23.0, show_default=True, type=float, help="CPU of an event, microseconds.")
@click.option("--us-per-request", default=60.0, show_default=True, type=float, help="CPU of a request, microseconds.")
@with_json
def gateway(*, as_json: bool, **load: Any) -> None:
    """Size the edge for a load."""
    try:
        found = size(Load(**load))
    except (ValueError, OverflowError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        show_json(dataclasses.asdict(found))
        return
    for line in found.lines():
        click.echo(line)
