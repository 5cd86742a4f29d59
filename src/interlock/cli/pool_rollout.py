"""`interlock scheduler pools versions|back|candidate|canary|promote|drop`: how the policy of a pool changes.

Decides nothing; the platform does.
"""

from typing import Any, Final

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import cell, show_json, show_object, show_rows, with_json

POOL_COLUMNS: Final = ("name", "policy", "share_level", "engines", "draining", "version")
_POOLS: Final = "/admin/v1/pools"
_NUMBER: Final = click.option("--number", type=click.IntRange(1), help="Only where this try is the open one.")
_FIELDS: Final = ("pool", "number", "stage", "share_bp", "by", "began_at", "ended_at")


@click.command("versions")
@click.argument("name")
@with_json
@connected
def versions(client: Client, name: str, *, as_json: bool) -> None:
    """List the versions of a pool's settings, newest first."""
    found = client.rows(f"{_POOLS}/{name}/versions")
    if not as_json:
        rows = [{**each, "changed": _words(each["changed"])} for each in found["data"]]
        found = {**found, "data": rows}
    show_rows(found, ("version", "at", "by", "changed", "reason"), as_json=as_json)


@click.command("back")
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@with_json
@connected
def back(client: Client, name: str, version: int, *, as_json: bool) -> None:
    """Go back to the settings of a former version."""
    show_pool(client.post(f"{_POOLS}/{name}/back", {"version": version}), as_json=as_json)


@click.command("candidate")
@click.argument("name")
@with_json
@connected
def candidate(client: Client, name: str, *, as_json: bool) -> None:
    """Show what is tried of a pool, and what it would decide otherwise."""
    show_candidate(client.get(f"{_POOLS}/{name}/candidate"), as_json=as_json)


@click.command("canary")
@click.argument("name")
@click.option("--share-bp", required=True, type=click.IntRange(1, 10_000), help="Workspaces, in basis points.")
@_NUMBER
@with_json
@connected
def canary(client: Client, name: str, *, as_json: bool, share_bp: int, number: int | None) -> None:
    """Let the candidate decide for a share of the workspaces, rolled back when it keeps fewer promises."""
    body = {"share_bp": share_bp, "number": number}
    show_candidate(client.post(f"{_POOLS}/{name}/candidate/canary", body), as_json=as_json)


@click.command("promote")
@click.argument("name")
@_NUMBER
@with_json
@connected
def promote(client: Client, name: str, *, as_json: bool, number: int | None) -> None:
    """Let the candidate decide for everybody: its settings are the next version."""
    show_pool(client.post(f"{_POOLS}/{name}/candidate/promote", {"number": number}), as_json=as_json)


@click.command("drop")
@click.argument("name")
@with_json
@connected
def drop(client: Client, name: str, *, as_json: bool) -> None:
    """End the try of a candidate."""
    show_candidate(client.call("DELETE", f"{_POOLS}/{name}/candidate"), as_json=as_json)


COMMANDS: Final = (versions, back, candidate, canary, promote, drop)


def show_candidate(found: Any, *, as_json: bool) -> None:
    """Print a candidate, and what its leader has seen of it."""
    if as_json:
        show_json(found)
        return
    show_object(found, _FIELDS, as_json=False)
    click.echo(f"artifact_digest: {found['artifact_digest']}")
    click.echo(f"changed: {_words(found['changed'])}")
    if found.get("gate") and found["gate"]["required"]:
        _show_gate(found["gate"])
    if found["verdict"]:
        click.echo(f"verdict: {found['verdict'].get('reason', '-')}")
    live = found.get("live") or {}
    shadow, arms = live.get("shadow"), live.get("canary") or (found["verdict"] or {})
    if shadow:
        _show_shadow(shadow)
    for arm in ("live", "candidate"):
        if isinstance(arms.get(arm), dict):
            click.echo(f"{arm}: " + ", ".join(f"{key} {cell(value)}" for key, value in arms[arm].items()))


def _show_gate(gate: dict[str, Any]) -> None:
    if not gate["admits"]:
        click.echo("gate: blocks: " + "; ".join(each["text"] for each in gate["reasons"]))
        return
    verdicts = ", ".join(gate["verdict_ids"])
    click.echo(f"gate: admits {gate['first_share_bp']} basis points until a canary has shown more ({verdicts})")


def _show_shadow(shadow: dict[str, Any]) -> None:
    click.echo(f"requests: {shadow['requests']}")
    for kind, count in shadow["differences"].items():
        click.echo(f"{kind}: {count}")
    for each in shadow["newest"]:
        click.echo(f"{each['request_id']} {each['kind']}: {each['live']}, candidate {each['candidate']}")


def _words(changed: dict[str, list[Any]]) -> str:
    return ", ".join(f"{name} {cell(before)} -> {cell(after)}" for name, (before, after) in changed.items()) or "-"


def show_pool(pool: Any, *, as_json: bool) -> None:
    """Print a pool with its engines."""
    if as_json:
        show_json(pool)
        return
    show_object({**pool, "engines": len(pool["engines"])}, POOL_COLUMNS, as_json=False)
    for engine in pool["engines"]:
        click.echo(f"engine {engine['engine_id']} {engine['adapter']} {engine['slots']} slots {engine['url']}")
