"""`interlock keys`: API keys. A key is printed once, when it is made; nothing can print it again."""

import re
from typing import Any

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_object, show_rows, with_json
from interlock.foundation.clock import SystemClock, rfc3339

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read `30d`, `24h`, `15m` or `90s`."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if found is None:
        raise click.BadParameter("write it as 90s, 15m, 24h or 30d")
    return int(found[1]) * _UNITS_S[found[2]]


def _parts(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


_of_org = click.option("--org", help="Organization, by id or name; the key's own by default.")


@click.group("keys")
def command() -> None:
    """API keys."""


@command.command("create")
@_of_org
@click.option("--workspace", required=True, help="Workspace, by id or name.")
@click.option("--name", default="cli", show_default=True)
@click.option("--scopes", callback=_parts, help="Scopes, with commas [inference].")
@click.option("--expires", "expires_s", callback=seconds_of, help="Life of the key, for example 30d.")
@click.option("--cidrs", callback=_parts, help="Addresses it may be used from, with commas.")
@click.option("--models", callback=_parts, help="Aliases it may call, with commas [*].")
@click.option("--class-max", type=click.Choice(["interactive", "standard", "batch"]), help="Best class it may ask for.")
@with_json
@connected
def create(
    client: Client, org: str | None, workspace: str, expires_s: int | None, *, as_json: bool, **given: Any
) -> None:
    """Create a key and print it, once."""
    expires_at = None if expires_s is None else rfc3339(SystemClock().now_us() + expires_s * 1_000_000)
    body = {**given, "organization_id": org, "workspace_id": workspace, "expires_at": expires_at}
    made = client.post("/admin/v1/keys", body)
    show_object({field: made[field] for field in ("id", "key", "last4")}, ("id", "key", "last4"), as_json=as_json)


@command.command("list")
@_of_org
@with_json
@connected
def listing(client: Client, org: str | None, *, as_json: bool) -> None:
    """List keys; the secret part is not kept anywhere."""
    page = client.rows("/admin/v1/keys", organization_id=org)
    show_rows(page, ("id", "name", "workspace_id", "last4", "scopes", "expires_at", "revoked_at"), as_json=as_json)


@command.command("rotate")
@click.argument("key")
@click.option("--overlap", "overlap_s", default="24h", show_default=True, callback=seconds_of, help="Both keys work.")
@_of_org
@with_json
@connected
def rotate(client: Client, key: str, overlap_s: int, org: str | None, *, as_json: bool) -> None:
    """Replace a key, given by its id; the old one works until the overlap ends."""
    path, query = f"/admin/v1/keys/{quoted(key)}/rotate", {"organization_id": org}
    made = client.call("POST", path, body={"overlap_s": overlap_s}, query=query)
    show_object(made, ("id", "key", "last4"), as_json=as_json)


@command.command("revoke")
@click.argument("key")
@_of_org
@with_json
@connected
def revoke(client: Client, key: str, org: str | None, *, as_json: bool) -> None:
    """Revoke a key, given by its id, everywhere within a second."""
    gone = client.call("DELETE", f"/admin/v1/keys/{quoted(key)}", query={"organization_id": org})
    show_object(gone, ("id", "revoked_at"), as_json=as_json)


@command.command("check")
@click.argument("key")
def check(key: str) -> None:
    """Say whether KEY has the form and the checksum of a key; asks nobody whether it exists."""
    from interlock.foundation.identity.domain.keys import (  # noqa: PLC0415 - the other commands know nothing of identity
        is_well_formed,
        lookup_of,
    )

    if not is_well_formed(key):
        raise click.ClickException("invalid_key: form or checksum is wrong")
    click.echo(f"ok: form and checksum are right, look-up part {lookup_of(key)}")
