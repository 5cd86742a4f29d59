"""`interlock routes import-prices` and `prices`: lists of prices, as versions that are never changed.

Asks no vendor: the list that comes with the platform is a snapshot in a package, and any other is a file.
"""

import json
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.output import show_object, show_rows, with_json
from interlock.foundation.clock import SystemClock

_PATH = "/admin/v1/prices"
_PACKAGE = "genai-prices"
_FIELDS = ("provider", "model", "input_per_million_usd", "output_per_million_usd", "cached_input_per_million_usd")


@click.command("import-prices")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A list of your own, as JSON."
)
@click.option("--version", help="What the list is called; that of the package for the list that comes with it.")
@click.option("--provider", "providers", multiple=True, help="Of the list that comes with the platform only these.")
@click.option("--effective-from", help="A date from which on they are in effect; now if none is given.")
@click.option("--platform", is_flag=True, help="For every organization; the platform's operator only.")
@with_json
@connected
def import_prices(
    client: Client, file: Path | None, version: str | None, providers: tuple[str, ...], *, as_json: bool, **given: Any
) -> None:
    """Add a list of prices: of public vendors, from the package that comes with the platform, or FILE.

    FILE holds objects with provider, model, input_per_million_usd, output_per_million_usd and, where there is one,
    cached_input_per_million_usd.
    """
    if file is not None and version is None:
        raise click.UsageError("A list of your own needs a --version.")
    prices = snapshot(providers) if file is None else json.loads(file.read_text())
    named = version or f"{_PACKAGE}-{version_of(_PACKAGE)}"
    made = client.post(_PATH, {"version": named, "prices": prices, **given})
    show_object(made, ("version", "prices", "effective_from", "platform"), as_json=as_json)


@click.command("prices")
@click.option("--version", help="Of this version alone.")
@with_json
@connected
def prices(client: Client, *, version: str | None, as_json: bool) -> None:
    """List the prices that were imported; PROVIDER/MODEL is what --price-of takes."""
    show_rows(client.rows(_PATH, version=version), ("version", *_FIELDS), as_json=as_json)


def snapshot(providers: tuple[str, ...] = ()) -> list[dict[str, str | None]]:
    """Return the prices of today of the package's list; a model without a price by token is left out.

    Of a price with tiers by the length of the prompt the first is taken. Raises `click.UsageError` for a provider that
    the list does not have.
    """
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - two thousand models, for one command

    listed = {each.id: each for each in get_snapshot().providers}
    unknown = [each for each in providers if each not in listed]
    if unknown:
        raise click.UsageError(f"The list has no {', '.join(unknown)}; it has {', '.join(sorted(listed))}.")
    today = datetime.fromtimestamp(SystemClock().now_us() / 1_000_000, UTC)
    found = (_row(name, each, today) for name in providers or listed for each in listed[name].models)
    return [each for each in found if each is not None]


def _row(provider: str, model: Any, today: datetime) -> dict[str, str | None] | None:
    price = model.get_prices(today)
    given, made = _usd(price.input_mtok), _usd(price.output_mtok)
    if made is None and "embed" in model.id:
        made = "0"
    if given is None or made is None:
        return None
    return dict(zip(_FIELDS, (provider, model.id, given, made, _usd(price.cache_read_mtok)), strict=True))


def _usd(price: Any) -> str | None:
    return None if price is None else str(getattr(price, "base", price))
