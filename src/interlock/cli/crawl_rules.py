"""`interlock crawl rules`: what an operator decides for hosts, for every tenant's crawls.

Does not dial a host.
"""

from typing import Final

import click

from interlock.cli.client import Client, connected, quoted
from interlock.cli.output import show_object, with_json

_PATH: Final = "/admin/v1/crawl-hosts"
_SHOWN: Final = ("host", "blocked", "delay_s", "concurrency", "reason", "updated_at", "hosts")


@click.group("rules")
def rules() -> None:
    """Rules for hosts, of the platform's operator."""


@rules.command("show")
@click.argument("host")
@with_json
@connected
def show(client: Client, host: str, *, as_json: bool) -> None:
    """Show the rule for HOST and what is known of it."""
    show_object(client.get(f"{_PATH}/{quoted(host)}"), _SHOWN, as_json=as_json)


@rules.command("block")
@click.argument("host")
@click.option("--reason", required=True, help="Why.")
@with_json
@connected
def block(client: Client, host: str, reason: str, *, as_json: bool) -> None:
    """Visit HOST (or `*.domain`) no more, in any crawl, from within a second on."""
    _put(client, host, {"blocked": True, "reason": reason}, as_json=as_json)


@rules.command("unblock")
@click.argument("host")
@click.option("--reason", default="unblocked", show_default=True, help="Why.")
@with_json
@connected
def unblock(client: Client, host: str, reason: str, *, as_json: bool) -> None:
    """Let crawls visit HOST again."""
    _put(client, host, {"blocked": False, "reason": reason}, as_json=as_json)


def _put(client: Client, host: str, body: dict[str, object], *, as_json: bool) -> None:
    show_object(client.call("PUT", f"{_PATH}/{quoted(host)}", body=body), _SHOWN, as_json=as_json)
