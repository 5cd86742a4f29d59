"""`interlock sources` for who administers them: add, list, show, sync, pause, resume, dark, light, identities, push.

Part of the group `sources`; SRC is the id of a source or its name.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_json, show_object, show_rows, with_json

_PATH: Final = "/v1/retrieval/sources"
_FIELDS: Final = ("id", "name", "kind", "state", "state_reason", "documents", "backlog", "lag_s", "acl_confirmed_share")
_BATCH_DOCUMENTS: Final = 100
_BATCH_BYTES: Final = 12 << 20
# The platform waits for a listing only so long in one call.
_WAIT_S: Final = 45.0


@click.command("add")
@click.argument("name")
@click.option("--kind", required=True, help="push, folder or crawl.")
@click.option("--config", "settings", multiple=True, metavar="K=V", help="A setting of the kind, e.g. path=/srv/wiki.")
@click.option("--default-acl", metavar="JSON", help="Who reads a document that brings no list of its own.")
@with_json
@connected
def add(
    client: Client, name: str, kind: str, settings: tuple[str, ...], default_acl: str | None, *, as_json: bool
) -> None:
    """Add a source."""
    body = {"name": name, "kind": kind, "config": _settings(settings), "default_acl": _json(default_acl)}
    show_object(client.post(_PATH, body), ("id", "name", "kind", "state"), as_json=as_json)


@click.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List sources."""
    columns = ("id", "name", "kind", "state", "documents", "lag_s")
    show_rows(client.rows(_PATH), columns, as_json=as_json)


@click.command("show")
@click.argument("source", metavar="SRC")
@with_json
@connected
def show(client: Client, source: str, *, as_json: bool) -> None:
    """Show a source: what it holds, what waits, how old its access lists are."""
    show_object(client.get(_of(client, source)), _FIELDS, as_json=as_json)


@click.command("sync")
@click.argument("source", metavar="SRC")
@click.option("--full", is_flag=True, help="Take what is missing as deleted, however much it is.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the end.")
@with_json
@connected
def sync(client: Client, source: str, wait_s: float, *, full: bool, as_json: bool) -> None:
    """List a folder source now; exit 1 when the listing failed, or did not end in the time given."""
    path, left_s = f"{_of(client, source)}/sync", wait_s
    while True:
        run = client.post(path, {"full": full, "wait_s": min(left_s, _WAIT_S)})
        left_s -= _WAIT_S
        if run["state"] in {"done", "failed"} or left_s <= 0:
            break
    counts = ("added", "changed", "acl_changed", "deleted", "quarantined", "skipped")
    show_object(run, ("sync_id", "state", *counts), as_json=as_json)
    if not as_json:
        for each in run["errors"]:
            click.echo(f"  {each['code']}: {each['external_id'] or '-'}")
    sys.exit(1 if run["state"] == "failed" or (wait_s and run["state"] != "done") else 0)


def _state(name: str, state: str, told: str) -> click.Command:
    @click.command(name, help=told)
    @click.argument("source", metavar="SRC")
    @with_json
    @connected
    def change(client: Client, source: str, *, as_json: bool) -> None:
        changed = client.call("PATCH", _of(client, source), body={"state": state})
        show_object(changed, ("id", "name", "state"), as_json=as_json)

    return change


@click.command("identities")
@click.argument("source", metavar="SRC")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@with_json
@connected
def identities(client: Client, source: str, file: Any, *, as_json: bool) -> None:
    """Say who names of a source are here: FILE has lines `user:NAME-THERE user:EMAIL-HERE`, or JSON pairs."""
    pairs = [_pair(line) for line in file if line.strip() and not line.startswith("#")]
    done = client.call("PUT", f"{_of(client, source)}/identities", body={"identities": pairs})
    show_object(done, ("mapped", "rejected", "consistency_token"), as_json=as_json)
    sys.exit(1 if done["rejected"] else 0)


@click.command("remove")
@click.argument("source", metavar="SRC")
@with_json
@connected
def remove(client: Client, source: str, *, as_json: bool) -> None:
    """Remove a source: dark at once, its documents are withdrawn in the background."""
    show_object(client.call("DELETE", _of(client, source)), ("id", "state"), as_json=as_json)


@click.command("push")
@click.argument("source", metavar="SRC")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_json
@connected
def push(client: Client, source: str, file: Path, *, as_json: bool) -> None:
    """Push FILE.jsonl, one document a line; exit 1 when a document was rejected."""
    source_id = _of(client, source).rpartition("/")[2]
    counts: dict[str, int] = {}
    bad: list[dict[str, Any]] = []
    token = None
    for batch in _batches(file):
        done = client.post("/v1/retrieval/documents", {"source": source_id, "documents": batch})
        token = done["consistency_token"]
        for each in done["results"]:
            counts[each["status"]] = counts.get(each["status"], 0) + 1
            bad += [each] if each["status"] == "rejected" else []
    if as_json:
        show_json({"counts": counts, "rejected": bad, "consistency_token": token})
    else:
        click.echo(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to push")
        for each in bad:
            click.echo(f"  {each['code']}: {each['external_id']}")
    sys.exit(1 if bad else 0)


COMMANDS: Final[Sequence[click.Command]] = (
    add,
    listing,
    show,
    sync,
    _state("pause", "paused", "Stop listing a source, and taking documents from a crawl."),
    _state("resume", "idle", "Go on with a source that was paused."),
    _state("dark", "dark", "Let nobody see anything of a source, from the next query on."),
    _state("light", "idle", "Let a dark source be seen again by those who may."),
    identities,
    remove,
    push,
)


def _of(client: Client, named: str) -> str:
    """Return the path of a source by its id or name."""
    if named.startswith("src_"):
        return f"{_PATH}/{quoted(named)}"
    for row in client.rows(_PATH)["data"]:
        if row["name"] == named:
            return f"{_PATH}/{row['id']}"
    raise click.ClickException(f"source_not_found: no source {named}")


def _batches(file: Path) -> Iterator[list[Any]]:
    batch: list[Any] = []
    size = 0
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError:
                raise click.ClickException(f"{file} line {number} is no JSON") from None
            if batch and (len(batch) == _BATCH_DOCUMENTS or size + len(line) > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(line)
    if batch:
        yield batch


def _settings(given: tuple[str, ...]) -> dict[str, Any]:
    """Return settings of `k=v`; a value that is JSON is taken as such, everything else as text."""
    found: dict[str, Any] = {}
    for each in given:
        name, mark, text = each.partition("=")
        if not mark or not name:
            raise click.UsageError(f"--config takes K=V, not {each!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise click.UsageError("--default-acl takes JSON") from None


def _pair(line: str) -> dict[str, str]:
    if line.lstrip().startswith("{"):
        try:
            found = json.loads(line)
            return {"external": str(found["external"]), "principal": str(found["principal"])}
        except (ValueError, KeyError, TypeError):
            raise click.ClickException(f"not a pair: {line.strip()[:80]}") from None
    external, _, principal = line.strip().partition(" ")
    return {"external": external, "principal": principal.strip()}
