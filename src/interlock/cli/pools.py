"""`interlock scheduler pools|weights|metrics`: pools of a running platform.

Decides nothing; the platform does.
"""

from typing import Any

import click

from interlock.cli.client import Client, connected
from interlock.cli.lazy import LazyCommands
from interlock.cli.numbers import Finite
from interlock.cli.output import cell, show_json, show_object, show_rows, with_json
from interlock.cli.pool_rollout import COMMANDS, POOL_COLUMNS, show_candidate, show_pool

_POOLS = "/admin/v1/pools"
_FIGURES = (
    "time_to_first_token_s", "tokens_per_second", "queue_wait_time_s", "end_to_end_latency_s", "gpu_utilization",
    "gpu_utilization_source", "error_rate", "overload_rejections", "cost_per_successful_request_usd",
    "accepted_attainment", "goodput_rps", "wasted_tokens",
)  # fmt: skip
_ADAPTERS = ("auto", "vllm", "sglang", "tgi", "llamacpp", "openai", "embedded")


# They replay traces, for which they load the core that decides.
_OF_GATES = LazyCommands(
    {
        "gate": "interlock.cli.pool_gate:gate",
        "evaluate": "interlock.cli.pool_gate:evaluate",
    }
)


@click.group("pools", commands=_OF_GATES)
def pools() -> None:
    """Pools of engines."""


@pools.command("add")
@click.argument("name")
@click.option("--engine", "urls", multiple=True, required=True, help="Base URL of an engine; may be repeated.")
@click.option("--adapter", default="auto", show_default=True, type=click.Choice(_ADAPTERS))
@click.option("--model", help="What the engines serve; asked of them where it is left out.")
@click.option("--slots", type=click.IntRange(1), help="Sequences that an engine runs at once.")
@click.option("--context-tokens", type=click.IntRange(1))
@click.option("--kv-tokens", type=click.IntRange(1))
@click.option("--prefill-tps", type=click.IntRange(1), help="Prompt tokens a second, until they are measured.")
@click.option("--tpot-ms", type=Finite(0, min_open=True), help="Time a token, until it is measured.")
@click.option("--price-usd-hour", default=0.0, show_default=True, type=Finite(0))
@with_json
@connected
def add(client: Client, name: str, urls: tuple[str, ...], *, as_json: bool, **figures: Any) -> None:
    """Add a pool with its engines."""
    given = {field: value for field, value in figures.items() if value is not None}
    made = client.post(_POOLS, {"name": name, "engines": [{"url": each, **given} for each in urls]})
    show_pool(made, as_json=as_json)


@pools.command("remove")
@click.argument("name")
@connected
def remove(client: Client, name: str) -> None:
    """Remove a pool; what runs on its engines goes on."""
    client.call("DELETE", f"{_POOLS}/{name}")


@pools.command("list")
@with_json
@connected
def listed(client: Client, *, as_json: bool) -> None:
    """List pools."""
    found = client.rows(_POOLS)
    if not as_json:
        found = {**found, "data": [{**each, "engines": len(each["engines"])} for each in found["data"]]}
    show_rows(found, POOL_COLUMNS, as_json=as_json)


@pools.command("show")
@click.argument("name")
@with_json
@connected
def show(client: Client, name: str, *, as_json: bool) -> None:
    """Show what a pool holds now."""
    found = client.get(f"{_POOLS}/{name}/status")
    if as_json:
        show_json(found)
        return
    head = ("name", "leader", "policy", "queued", "granted", "slots", "prefill_tps", "weighted_tps", "water_level")
    for field in head:
        click.echo(f"{field}: {cell(found[field])}")
    for engine in found["engines"]:
        click.echo(
            f"engine {engine['engine_id']} {engine['state']} {engine['granted']}/{engine['slots']} {engine['url']}"
        )


@pools.command("set")
@click.argument("name")
@click.argument("settings", nargs=-1, required=True)
@click.option("--shadow", is_flag=True, help="Only try it beside what decides; `pools candidate` shows what differs.")
@with_json
@connected
def change(client: Client, name: str, settings: tuple[str, ...], *, as_json: bool, shadow: bool) -> None:
    """Change settings, such as interactive.ttft_ms=1000 share_level=0.8 policy=interlock draining=true."""
    pairs = [each.partition("=") for each in settings]
    if any(not sign for _, sign, _ in pairs):
        raise click.UsageError("write settings as KEY=VALUE")
    body = {"settings": {key: value for key, _, value in pairs}}
    if shadow:
        show_candidate(client.call("PUT", f"{_POOLS}/{name}/candidate", body=body), as_json=as_json)
    else:
        show_pool(client.call("PUT", f"{_POOLS}/{name}", body=body), as_json=as_json)


for _each in COMMANDS:
    pools.add_command(_each)


@click.group("weights")
def weights() -> None:
    """Weights of tenants in every pool."""


@weights.command("set")
@click.option("--scope", required=True, type=click.Choice(["organization", "workspace", "key"]))
@click.option("--target", required=True, help="Id of the organization, workspace or key.")
@click.option("--weight", required=True, type=Finite(0.1, 100))
@with_json
@connected
def set_weight(client: Client, *, as_json: bool, **given: Any) -> None:
    """Give a tenant more or less than its siblings."""
    made = client.call("PUT", "/admin/v1/pool-weights", body=given)
    show_object(made, ("scope", "target", "weight"), as_json=as_json)


@click.command("metrics")
@click.option("--pool", "name", help="One pool; all where it is left out.")
@click.option("--by", type=click.Choice(["tenant"]), help="A row for each organization.")
@with_json
@connected
def metrics(client: Client, name: str | None, by: str | None, *, as_json: bool) -> None:
    """Show the seven metrics over the last five minutes."""
    names = [name] if name else [each["name"] for each in client.rows(_POOLS)["data"]]
    found = [client.get(f"{_POOLS}/{each}/metrics") for each in names]
    if by is None:
        found = [{key: value for key, value in each.items() if key != "tenants"} for each in found]
    if as_json:
        show_json(found[0] if name else {"pools": found})
        return
    for each in found:
        click.echo(f"pool {each['pool']}")
        for row in each["tenants"] if by else [each]:
            _tell(row)


def _tell(row: dict[str, Any]) -> None:
    if "organization_id" in row:
        click.echo(f"  {row['organization_id']}")
    for field in _FIGURES:
        if field in row:
            click.echo(f"  {field}: {cell(row[field])}")
