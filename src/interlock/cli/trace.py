"""`interlock trace ID`: the story of one request, as lines. Does not show content; stories hold none."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from interlock.cli.client import Client, RefusedError, connected, quoted
from interlock.cli.output import cell, show_json, with_json

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
    for line in lines(story):
        click.echo(line)


def lines(story: Mapping[str, Any]) -> Iterator[str]:
    """Yield the story: what it came to, then one line a decision."""
    yield f"request: {story['id']}" + ("" if story.get("complete") else " (not complete yet)")
    yield f"outcome: {cell(story.get('outcome'))}"
    yield f"status: {cell(story.get('status'))}"
    yield f"rule: {cell(story.get('rule'))}"
    yield f"route: {route_of(story)}"
    for part in ("usage", "cost", "timing"):
        yield f"{part}: {_pairs(story.get(part) or {})}"
    began_us = None
    for decision in story.get("decisions", ()):
        began_us = decision["at_us"] if began_us is None else began_us
        after_ms = (decision["at_us"] - began_us) / 1000
        words = [f"+{after_ms:.1f}", decision["step"], decision["rule"], decision["verdict"], _detail(decision)]
        yield " ".join(cell(word) for word in words if word != "")


def route_of(story: Mapping[str, Any]) -> str:
    """Return `ALIAS@VERSION/DEPLOYMENT`, as in the header `x-interlock-route`."""
    if not story.get("alias"):
        return "-"
    version = "" if story.get("route_version") is None else f"@{story['route_version']}"
    deployment = f"/{story['deployment']}" if story.get("deployment") else ""
    return f"{story['alias']}{version}{deployment}"


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={cell(value)}" for key, value in values.items() if value is not None) or "-"


def _detail(decision: Mapping[str, Any]) -> str:
    detail = decision.get("detail")
    if not detail:
        return ""
    return _pairs(detail) if isinstance(detail, dict) else json.dumps(detail)
