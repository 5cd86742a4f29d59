"""`interlock orgs`: organizations and their workspaces. Does not manage members; that is `users` and `groups`."""

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json


@click.group("orgs")
def command() -> None:
    """Organizations and workspaces."""


@command.command("create")
@click.argument("name")
@click.option("--workspace", default="default", show_default=True, help="Name of its first workspace.")
@click.option("--tier", help="Tier whose limits are its defaults.")
@with_json
@connected
def create(client: Client, name: str, workspace: str, tier: str | None, *, as_json: bool) -> None:
    """Create an organization and its first workspace."""
    made = client.post("/admin/v1/organizations", {"name": name, "tier": tier})
    first = client.post("/admin/v1/workspaces", {"organization_id": made["id"], "name": workspace})
    found = {"id": made["id"], "name": made["name"], "workspace_id": first["id"]}
    show_object(found, ("id", "name", "workspace_id"), as_json=as_json)


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List the organizations that the key may see."""
    show_rows(client.rows("/admin/v1/organizations"), ("id", "name", "tier", "created_at"), as_json=as_json)


@command.group("workspace")
def workspace_group() -> None:
    """Workspaces of an organization."""


@workspace_group.command("create")
@click.argument("org")
@click.argument("name")
@with_json
@connected
def create_workspace(client: Client, org: str, name: str, *, as_json: bool) -> None:
    """Create a workspace in ORG, given by id or name."""
    made = client.post("/admin/v1/workspaces", {"organization_id": org, "name": name})
    show_object({"id": made["id"], "name": made["name"]}, ("id", "name"), as_json=as_json)


@workspace_group.command("list")
@click.option("--org", help="Organization, by id or name; the key's own by default.")
@with_json
@connected
def list_workspaces(client: Client, org: str | None, *, as_json: bool) -> None:
    """List workspaces."""
    page = client.rows("/admin/v1/workspaces", organization_id=org)
    show_rows(page, ("id", "name", "organization_id", "created_at"), as_json=as_json)
