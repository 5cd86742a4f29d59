"""`interlock ask`: an answer out of what a principal may read, with its citations.

Writes no word of its own; an abstention is an answer too.
"""

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import cell, show_json, with_json


@click.command("ask")
@click.argument("query")
@click.option("--as", "principal", help="Ask as this principal: user:ID|EMAIL, sa:ID, group:ID|NAME, everyone.")
@click.option("--mode", type=click.Choice(["auto", "extractive"]), default="auto", show_default=True)
@with_json
@connected
def command(client: Client, query: str, principal: str | None, mode: str, *, as_json: bool) -> None:
    """Answer a question, every sentence cited."""
    body = {"query": query, "principal": principal, "mode_answer": mode}
    found = client.post("/v1/retrieval/answers", body)
    if as_json:
        show_json(found)
        return
    if found["abstained"]:
        click.echo(f"no answer: {found['abstain_reason']}")
    for sentence in found["sentences"]:
        marks = "".join(f"[{number}]" for number in sentence["citations"])
        text = " ".join(found["answer"][sentence["start"] : sentence["end"]].split())
        click.echo(f"{cell(text)} {marks}")
    for each in found["citations"]:
        span = f"v{each['version']} {each['start']}:{each['end']}"
        click.echo(f"  [{each['n']}] {cell(each['uri'])}  {each['document_id']} {span}")
    click.echo(f"{found['mode']}  request {found['request_id']}  {found['answer_id']}")
