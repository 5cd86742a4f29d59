"""`interlock crawl`: the crawler from a shell.

Does not decide anything: each command is one call, or needs no platform at all.
"""

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.crawl_offline import OFFLINE
from interlock.cli.crawl_rules import rules
from interlock.cli.output import cell, show_json, show_object, show_rows, with_json

_PATH: Final = "/v1/crawls"
_POLL_S: Final = 0.25
_ENDED: Final = frozenset({"finished", "canceled", "deleting"})
_SHOWN: Final = ("id", "name", "state", "reason", "counts", "backpressure", "created_at", "finished_at")


@click.group("crawl")
def command() -> None:
    """Crawls, and what a site says to crawlers."""


for _offline in OFFLINE:
    command.add_command(_offline)
command.add_command(rules)


@command.command("start")
@click.argument("seeds", nargs=-1, metavar="SEED...")
@click.option("--name", help="Name of the crawl; the host of the first seed by default.")
@click.option("--scope", type=click.Choice(["host", "domain", "prefix", "list"]), help="Which URLs belong to it.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only URLs of this form; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No URLs of this form; may be repeated.")
@click.option("--pages", type=click.IntRange(1), help="Budget of pages.")
@click.option("--delay", type=click.FloatRange(0), help="Seconds between two requests of a host.")
@click.option("--concurrency", type=click.IntRange(1, 32), help="Requests at once to a host.")
@click.option("--spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A CrawlSpec as JSON.")
@click.option("--wait", is_flag=True, help="Come back when the crawl has ended.")
@with_json
@connected
def start(client: Client, spec: Path | None, *, wait: bool, as_json: bool, **given: Any) -> None:
    """Start a crawl at SEED."""
    body = _spec(spec, given)
    if not body.get("seeds"):
        raise click.UsageError("name a SEED or a --spec with seeds")
    crawl = client.post(_PATH, body)
    while wait and crawl["state"] not in _ENDED:
        time.sleep(_POLL_S)
        crawl = client.get(f"{_PATH}/{crawl['id']}")
    show_object(crawl, _SHOWN, as_json=as_json)


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List crawls, the newest first."""
    show_rows(client.rows(_PATH), ("id", "name", "state", "reason", "created_at"), as_json=as_json)


@command.command("show")
@click.argument("crawl")
@with_json
@connected
def show(client: Client, crawl: str, *, as_json: bool) -> None:
    """Show a crawl."""
    show_object(client.get(f"{_PATH}/{quoted(crawl)}"), _SHOWN, as_json=as_json)


def _change(action: str, sentence: str) -> click.Command:
    @click.command(action, help=sentence)
    @click.argument("crawl")
    @click.option("--reason", help="Why.")
    @with_json
    @connected
    def change(client: Client, crawl: str, reason: str | None, *, as_json: bool) -> None:
        show_object(client.post(f"{_PATH}/{quoted(crawl)}/{action}", {"reason": reason}), _SHOWN, as_json=as_json)

    return change


command.add_command(_change("pause", "Stop visits; nothing is lost."))
command.add_command(_change("resume", "Go on where the crawl was."))
command.add_command(_change("cancel", "End a crawl; its documents stay in the index."))


@command.command("delete")
@click.argument("crawl")
@click.option("--keep-documents", is_flag=True, help="Leave its documents in the index.")
@with_json
@connected
def delete(client: Client, crawl: str, *, keep_documents: bool, as_json: bool) -> None:
    """Delete a crawl and, unless they are kept, its documents."""
    wanted = "keep" if keep_documents else "delete"
    made = client.call("DELETE", f"{_PATH}/{quoted(crawl)}", query={"documents": wanted})
    show_object(made, ("id", "state", "tombstones"), as_json=as_json)


@command.command("add")
@click.argument("crawl")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--priority", default=0, show_default=True, type=int)
@with_json
@connected
def add(client: Client, crawl: str, urls: tuple[str, ...], priority: int, *, as_json: bool) -> None:
    """Add URLs to a crawl."""
    made = client.post(f"{_PATH}/{quoted(crawl)}/urls", {"urls": list(urls), "priority": priority})
    show_object(made, ("added", "known", "refused"), as_json=as_json)


@command.command("recrawl")
@click.argument("crawl")
@click.argument("urls", nargs=-1, metavar="[URL...]")
@click.option("--all", "is_all", is_flag=True, help="Every URL that was visited.")
@with_json
@connected
def recrawl(client: Client, crawl: str, urls: tuple[str, ...], *, is_all: bool, as_json: bool) -> None:
    """Visit URLs again."""
    body = {"all": True} if is_all else {"urls": list(urls)}
    show_object(client.post(f"{_PATH}/{quoted(crawl)}/recrawl", body), ("scheduled",), as_json=as_json)


@command.command("requeue")
@click.argument("crawl")
@click.option("--reason", help="Only dead letters of this class, such as connect_timeout.")
@with_json
@connected
def requeue(client: Client, crawl: str, reason: str | None, *, as_json: bool) -> None:
    """Try dead letters again."""
    made = client.post(f"{_PATH}/{quoted(crawl)}/requeue", {"state": "dead", "reason": reason})
    show_object(made, ("scheduled",), as_json=as_json)


@command.command("watch")
@click.argument("crawl")
@with_json
@connected
def watch(client: Client, crawl: str, *, as_json: bool) -> None:
    """Print a crawl's events as they come, until it has ended."""
    for event, content in client.events(f"{_PATH}/{quoted(crawl)}/events"):
        if as_json:
            show_json({"event": event, **content})
        else:
            told = "  ".join(f"{name}={cell(value)}" for name, value in content.items() if value is not None)
            click.echo(f"{event}  {told}")


@command.command("explain")
@click.argument("crawl")
@click.argument("page", metavar="URL")
@with_json
@connected
def explain(client: Client, crawl: str, page: str, *, as_json: bool) -> None:
    """Say why URL is, or is not, in the index."""
    found = client.get(f"{_PATH}/{quoted(crawl)}/explain", url=page)
    if as_json:
        show_json(found)
        return
    click.echo(cell(found["because"]))
    show_object(found, ("verdict", "rule", "state", "canonical", "blocking", "robots"), as_json=False)
    for step in found["decisions"]:
        told = f"{step['at']}  {step['step']}  {step['verdict']}  {step['rule']}  {json.dumps(step['detail'])}"
        click.echo(cell(told))


@command.command("urls")
@click.argument("crawl")
@click.option("--state", help="Only URLs in this state.")
@click.option("--reason", help="Only URLs with this reason.")
@click.option("--host", help="Only URLs of this host.")
@with_json
@connected
def urls(client: Client, crawl: str, *, as_json: bool, **wanted: str | None) -> None:
    """List URLs of a crawl."""
    found = client.rows(f"{_PATH}/{quoted(crawl)}/urls", **wanted)
    show_rows(found, ("url", "state", "reason", "http_status", "attempts", "fetched_at"), as_json=as_json)


@command.command("hosts")
@click.argument("crawl")
@with_json
@connected
def hosts(client: Client, crawl: str, *, as_json: bool) -> None:
    """List the hosts of a crawl."""
    columns = ("host", "state", "reason", "until", "delay_ms", "delay_source", "queued", "leased", "done", "dead")
    show_rows(client.rows(f"{_PATH}/{quoted(crawl)}/hosts"), columns, as_json=as_json)


@command.command("documents")
@click.argument("crawl")
@with_json
@connected
def documents(client: Client, crawl: str, *, as_json: bool) -> None:
    """List what of a crawl is in the index."""
    columns = ("url", "version", "title", "language", "fetched_at")
    show_rows(client.rows(f"{_PATH}/{quoted(crawl)}/documents"), columns, as_json=as_json)


@command.command("preview")
@click.option("--spec", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@with_json
@connected
def preview(client: Client, spec: Path, urls: tuple[str, ...], *, as_json: bool) -> None:
    """Try a spec on URLs, without any network."""
    found = client.post(f"{_PATH}/preview", {**_read(spec), "urls": list(urls)})
    show_rows(found, ("url", "canonical", "verdict", "rule", "detail"), as_json=as_json)


def _spec(file: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a file with what the options say put over it."""
    body = {} if file is None else _read(file)
    if given["seeds"]:
        body["seeds"] = list(given["seeds"])
    if given["name"]:
        body["name"] = given["name"]
    parts = {
        "scope": {"mode": given["scope"], "include": list(given["include"]), "exclude": list(given["exclude"])},
        "budgets": {"pages": given["pages"]},
        "politeness": {"delay_s": given["delay"], "concurrency": given["concurrency"]},
    }
    for name, fields in parts.items():
        named = {key: value for key, value in fields.items() if value not in (None, [])}
        if named:
            body[name] = {**body.get(name, {}), **named}
    return body


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise click.ClickException(f"{file}: not a JSON object")
    return found
