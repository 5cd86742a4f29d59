"""`interlock sources why`: whether somebody may read a document, and by which path.

Part of the group `sources`; shows no text of any document.
"""

import sys
from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import cell, show_json, with_json


@click.command("why")
@click.argument("principal")
@click.argument("document")
@click.option("--at", type=click.IntRange(0), help="Explain as of this epoch instead of now.")
@with_json
@connected
def why(client: Client, principal: str, document: str, at: int | None, *, as_json: bool) -> None:
    """Explain why a principal may read a document or not; exit 1 when it may not."""
    found = client.post("/v1/retrieval/explain", {"principal": principal, "document_id": document, "at": at})
    if as_json:
        show_json(found)
    else:
        told(found)
    sys.exit(0 if found["eligible"] else 1)


def told(found: Any) -> None:
    """Print an explanation for people."""
    word = "eligible" if found["eligible"] else "not eligible"
    now = "" if found["eligible"] == found["live_now"] else f"; now {'eligible' if found['live_now'] else 'not'}"
    click.echo(f"{word} at epoch {found['at_epoch']}{now}")
    for reason in found["reasons"]:
        clause = " and ".join(reason["clause"]) or "-"
        where = f" of {reason['container']}" if reason["container"] else ""
        click.echo(f"  {reason['rule']}: {cell(clause)}{cell(where) if where else ''}")
        click.echo(f"    path: {' > '.join(cell(each) for each in reason['path'])}")
