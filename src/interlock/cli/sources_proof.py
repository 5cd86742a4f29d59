"""`interlock sources why|leaktest|quality`: proofs of access, of one document and of the whole; and of relevance.

Part of the group `sources`; shows no text of any document.
"""

import sys
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.client import Client, connected
from interlock.cli.leaks.fuzz import Fuzz
from interlock.cli.leaks.platform import scratch_platform, spoken
from interlock.cli.output import cell, show_json, with_json
from interlock.cli.quality.collections import load
from interlock.cli.quality.run import measure

_SHOWN_MAX: Final = 40
_TOLD_EVERY: Final = 100


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


@click.command("leaktest")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="The same seed walks the same way.")
@click.option("--steps", default=2_000, show_default=True, type=click.IntRange(1), help="Changes of the world.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which the scratch database is made and dropped [the system's temporary folder].",
)
def leaktest(seed: int, steps: int, data: Path | None) -> None:
    """Walk a random world through every surface, beside an independent oracle; exit 1 when anything leaks."""
    with scratch_platform(data) as (line, folder):
        fuzz = Fuzz(line, seed)
        fuzz.make_world()
        found = fuzz.run(steps, _progress)
        found.leaks.extend(f"a log says {word}" for word in spoken(folder, fuzz.canaries()))
    for words in found.leaks[:_SHOWN_MAX]:
        click.echo(words)
    looked = ", ".join(f"{name} {times}" for name, times in sorted(found.looked.items()))
    click.echo(f"looked: {looked}")
    click.echo(f"leaks: {len(found.leaks)} steps: {found.steps} seed: {seed}")
    sys.exit(1 if found.leaks else 0)


def _progress(step: int) -> None:
    if step % _TOLD_EVERY == 0:
        click.echo(f"step {step}", err=True)


@click.command("quality")
@click.option(
    "--collection",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a collection with judgements.",
)
@click.option("--format", "form", type=click.Choice(["cranfield", "trec"]), default="cranfield", show_default=True)
@click.option("--rerank", type=click.Choice(["features", "none"]), default="features", show_default=True)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which the scratch database is made and dropped [the system's temporary folder].",
)
def quality(collection: Path, form: str, rerank: str, data: Path | None) -> None:
    """Measure relevance on a collection: every leg and both together."""
    loaded = load(collection, form)
    with scratch_platform(data) as (line, _):
        found = measure(line, loaded, lambda words: click.echo(words, err=True), rerank)
    show_json({"ndcg10": found.ndcg10, "recall100": found.recall100})


COMMANDS: Final = (why, leaktest, quality)
