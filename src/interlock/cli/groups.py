"""`interlock groups`: groups and who is in them, directly or through other groups. Does not grant roles."""

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_json, show_object, show_rows, with_json

_MEMBER = "MEMBER is user:ID, user:EMAIL, sa:ID, group:ID or group:NAME."


@click.group("groups")
def command() -> None:
    """Groups."""


@command.command("create")
@click.argument("name")
@with_json
@connected
def create(client: Client, name: str, *, as_json: bool) -> None:
    """Create a group."""
    show_object(client.post("/admin/v1/groups", {"name": name}), ("id", "name"), as_json=as_json)


@command.command("add", help=f"Put a member into a group. {_MEMBER}")
@click.argument("group")
@click.argument("member")
@with_json
@connected
def add(client: Client, group: str, member: str, *, as_json: bool) -> None:
    """Put a member into a group."""
    _change(client, "PUT", group, member, as_json=as_json)


@command.command("remove", help=f"Take a member out of a group. {_MEMBER}")
@click.argument("group")
@click.argument("member")
@with_json
@connected
def remove(client: Client, group: str, member: str, *, as_json: bool) -> None:
    """Take a member out of a group."""
    _change(client, "DELETE", group, member, as_json=as_json)


@command.command("list")
@click.option("--effective", metavar="PRINCIPAL", help="The groups of one principal, and through which others.")
@with_json
@connected
def listing(client: Client, effective: str | None, *, as_json: bool) -> None:
    """List groups."""
    if effective is None:
        show_rows(client.rows("/admin/v1/groups"), ("id", "name", "created_at"), as_json=as_json)
        return
    found = client.get(f"/admin/v1/principals/{quoted(_principal_id(client, effective))}/effective")
    if as_json:
        show_json(found)
        return
    show_rows({"data": found["groups"]}, ("id", "via"), as_json=False)


def _principal_id(client: Client, named: str) -> str:
    """Return the id of `user:ID`, `user:EMAIL`, `sa:ID`, or of a bare id or address."""
    bare = named.removeprefix("user:").removeprefix("sa:")
    if "@" not in bare:
        return bare
    for row in client.rows("/admin/v1/users")["data"]:
        if row["email"] == bare:
            return str(row["id"])
    raise click.ClickException(f"not_found: no user {bare}")


def _change(client: Client, method: str, group: str, member: str, *, as_json: bool) -> None:
    changed = client.call(method, f"/admin/v1/groups/{quoted(group)}/members/{quoted(member)}")
    show_object(changed, ("group_id", "member", "epoch"), as_json=as_json)
