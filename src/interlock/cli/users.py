"""`interlock users`: people of the organization. Does not set passwords; a first login is by key or one-time link."""

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_object, show_rows, with_json
from interlock.foundation.scope import Role


@click.group("users")
def command() -> None:
    """People."""


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List users."""
    show_rows(client.rows("/admin/v1/users"), ("id", "email", "name", "created_at"), as_json=as_json)


@command.command("invite")
@click.argument("email")
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]))
@click.option("--name", help="Display name; the part before the @ by default.")
@with_json
@connected
def invite(client: Client, email: str, role: str, name: str | None, *, as_json: bool) -> None:
    """Create a user and give it a role in the whole organization."""
    made = client.post("/admin/v1/users", {"email": email, "name": name or email.partition("@")[0]})
    client.post("/admin/v1/memberships", {"principal": made["id"], "role": role})
    show_object({**made, "role": role}, ("id", "email", "role"), as_json=as_json)


@command.command("remove")
@click.argument("user")
@with_json
@connected
def remove(client: Client, user: str, *, as_json: bool) -> None:
    """Remove a user; its sessions and keys end with it."""
    show_object(client.call("DELETE", f"/admin/v1/users/{quoted(user)}"), ("id", "email"), as_json=as_json)
