"""`interlock search`: search the index as oneself, or as somebody whom the key may act as.

Shows what the platform answered; decides nothing about access.
"""

from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import cell, show_json, with_json


@click.command("search")
@click.argument("query")
@click.option("--as", "principal", help="Search as this principal: user:ID|EMAIL, sa:ID, group:ID|NAME, everyone.")
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 100), help="Documents.")
@click.option("--mode", type=click.Choice(["hybrid", "lexical", "vector"]), default="hybrid", show_default=True)
@click.option("--fresh", "at_least_as_fresh", help="Consistency token: see this change or later.")
@with_json
@connected
def command(client: Client, *, as_json: bool, **asked: Any) -> None:
    """Search what a principal may read."""
    found = client.post("/v1/retrieval/search", asked)
    if as_json:
        show_json(found)
        return
    for place, hit in enumerate(found["hits"], 1):
        click.echo(f"{place:>3}  {hit['score']:.4f}  {hit['document_id']}  {cell(hit['title'] or hit['uri'])}")
        for passage in hit["passages"]:
            click.echo(f"     [{passage['start']}:{passage['end']}] {shortened(passage['text'])}")
    if not found["hits"]:
        click.echo("no hits")
    if found["degraded"]:
        click.echo(f"degraded: {', '.join(found['degraded'])}")
    click.echo(f"request {found['request_id']}  epoch {found['epoch']}  token {found['consistency_token']}")


def shortened(text: str, chars: int = 160) -> str:
    """Return a text as one line."""
    line = cell(" ".join(text.split()))
    return line if len(line) <= chars else line[: chars - 1] + "…"
