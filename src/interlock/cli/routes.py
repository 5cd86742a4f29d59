"""`interlock routes`: where aliases lead, their versions, and what share of callers a version answers.

Raises no weight without the token of a verdict; the platform refuses it.
"""

import os
from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json
from interlock.cli.prices import import_prices, prices

_PATH = "/admin/v1/routes"
_STRATEGIES = ("weighted", "priority", "least_busy", "latency", "cost")
_PRICES = {
    "input_per_million_usd": "input_price",
    "output_per_million_usd": "output_price",
    "cached_input_per_million_usd": "cached_price",
}
_TROUBLES = ("error", "timeout", "overloaded", "limited", "context_too_long")


@click.group("routes")
def command() -> None:
    """Providers, deployments, routes and the weights of their versions."""


command.add_command(import_prices)
command.add_command(prices)


@command.command("add-provider")
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(["openai", "anthropic", "pool"]))
@click.option(
    "--base-url", required=True, help="Where it is asked, such as https://models.example/v1; pool:NAME of a pool."
)
@click.option("--secret-env", help="Environment variable that holds its bearer key.")
@click.option("--platform", is_flag=True, help="For every organization; the platform's operator only.")
@click.option("--allow-http", is_flag=True, help="Without https, for a provider of the platform.")
@with_json
@connected
def add_provider(client: Client, name: str, *, as_json: bool, secret_env: str | None, **given: Any) -> None:
    """Add a server that serves models."""
    secret = None if secret_env is None else os.environ.get(secret_env)
    if secret_env is not None and not secret:
        raise click.UsageError(f"{secret_env} is not set.")
    made = client.post("/admin/v1/providers", {"name": name, **given, "secret": secret})
    show_object(made, ("id", "name", "kind", "base_url", "secret_last4", "platform"), as_json=as_json)


@command.command("add-deployment")
@click.argument("name")
@click.option("--provider", required=True, help="Name or id of the provider.")
@click.option("--upstream-model", required=True, help="How the provider names the model.")
@click.option("--price-of", metavar="PROVIDER/MODEL", help="Its price by the lists of `routes import-prices`.")
@click.option("--input-price", metavar="USD", help="Dollars a million tokens of input.")
@click.option("--output-price", metavar="USD", help="Dollars a million tokens of output.")
@click.option("--cached-price", metavar="USD", help="Dollars a million tokens of input from the provider's cache.")
@with_json
@connected
def add_deployment(client: Client, name: str, *, as_json: bool, **given: Any) -> None:
    """Add one model of a provider. Without a price, what it answers has no cost."""
    price_of, price = given.pop("price_of"), _price(given)
    if price_of is not None and price is not None:
        raise click.UsageError("A price is given, or taken from a list by --price-of.")
    body = {"name": name, **given, "price": price, "price_of": price_of}
    made = client.post("/admin/v1/deployments", body)
    price = made["price"] or {}
    shown = {**made, **price, "price_version": price.get("version")}
    fields = ("id", "name", "provider", "upstream_model", "platform", *_PRICES, "price_version")
    show_object(made if as_json else shown, fields, as_json=as_json)


def _price(given: dict[str, Any]) -> dict[str, str] | None:
    """Take the prices out of the options and return them as they are asked for."""
    usd = {field: given.pop(option) for field, option in _PRICES.items()}
    if not any(usd.values()):
        return None
    if usd["input_per_million_usd"] is None or usd["output_per_million_usd"] is None:
        raise click.UsageError("A price has an --input-price and an --output-price.")
    return usd


@command.command("create")
@click.argument("alias")
@click.option(
    "--target", "targets", multiple=True, required=True, help="DEPLOYMENT or DEPLOYMENT=WEIGHT, again and again."
)
@click.option("--strategy", type=click.Choice(_STRATEGIES), default="weighted", show_default=True)
@click.option("--fallback", "fallbacks", multiple=True, help="DEPLOYMENT=TROUBLE,.. asked when no target answered.")
@click.option("--degrade-to", help="The alias that answers when there is no room.")
@with_json
@connected
def create(client: Client, alias: str, targets: tuple[str, ...], *, as_json: bool, **given: Any) -> None:
    """Add a version of an alias: the first one is stable, a later one a draft."""
    body = {
        "alias": alias,
        "targets": [_target(each) for each in targets],
        "strategy": given["strategy"],
        "fallbacks": [_fallback(each) for each in given["fallbacks"]],
        "degrade_to": given["degrade_to"],
    }
    made = client.post(_PATH, body)
    show_object(made, ("alias", "version", "digest", "state", "stable_version"), as_json=as_json)


def _target(text: str) -> dict[str, Any]:
    deployment, mark, weight = text.partition("=")
    try:
        return {"deployment": deployment, "weight": float(weight)} if mark else {"deployment": deployment}
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not DEPLOYMENT=WEIGHT", param_hint="--target") from error


def _fallback(text: str) -> dict[str, Any]:
    deployment, _, troubles = text.partition("=")
    return {"deployment": deployment, "on": troubles.split(",") if troubles else list(_TROUBLES)}


@command.command("list")
@with_json
@connected
def listing(client: Client, *, as_json: bool) -> None:
    """List routes and what each gives to a version that is tried."""
    columns = ("alias", "stable_version", "candidate_version", "effective_weight", "expires_at")
    show_rows(client.rows(_PATH), columns, as_json=as_json)


@command.command("show")
@click.argument("alias")
@with_json
@connected
def show(client: Client, alias: str, *, as_json: bool) -> None:
    """Show a route with its versions."""
    found = client.get(f"{_PATH}/{alias}")
    head = ("id", "alias", "stable_version", "candidate_version", "effective_weight", "expires_at", "verdict_id")
    show_object(found, head, as_json=as_json)
    if not as_json:
        show_rows({"data": found["versions"]}, ("version", "state", "digest", "gate", "created_at"), as_json=False)


@command.command("weight")
@click.argument("alias")
@click.option("--version", required=True, type=click.IntRange(1))
@click.option("--weight", required=True, type=click.FloatRange(0, 100), help="Percent of sticky units.")
@click.option("--mode", type=click.Choice(["canary", "shadow"]), default="canary", show_default=True)
@click.option("--verdict", "verdict_token", help="Token of a live verdict; a lower weight needs none.")
@click.option("--lease", "lease_s", type=float, default=60.0, show_default=True, help="Seconds until it falls to 0.")
@with_json
@connected
def weight(client: Client, alias: str, *, as_json: bool, **given: Any) -> None:
    """Give a version a share of the callers, for as long as somebody renews it."""
    found = client.call("PUT", f"{_PATH}/{alias}/weights", body=given)
    show_object(found, ("alias", "version", "effective_weight", "expires_at", "epoch"), as_json=as_json)


@command.command("rollback")
@click.argument("alias")
@with_json
@connected
def rollback(client: Client, alias: str, *, as_json: bool) -> None:
    """Give everything to the stable version."""
    found = client.call("DELETE", f"{_PATH}/{alias}/weights")
    show_object(found, ("alias", "version", "effective_weight", "epoch"), as_json=as_json)
