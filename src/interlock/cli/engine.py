"""`interlock engine`: engines by themselves. Needs no running platform."""

import asyncio
from typing import Any

import click

from interlock import wiring
from interlock.cli.output import cell, show_json, with_json
from interlock.cli.scheduler import profile_of
from interlock.cli.up import tell
from interlock.scheduler.adapters.fake_engine import Shape
from interlock.scheduler.domain.engines import Dialect, EngineReport, Readiness

_DIALECTS = [each.value for each in Dialect]
_FAKED = [each.value for each in (Dialect.VLLM, Dialect.SGLANG, Dialect.TGI, Dialect.LLAMACPP, Dialect.OPENAI)]


@click.group("engine")
def command() -> None:
    """Engines: what stands at a URL, and a scripted one to try against."""


@command.command("probe")
@click.argument("url")
@click.option("--adapter", default="auto", show_default=True, type=click.Choice(["auto", *_DIALECTS]))
@click.option("--api-key", envvar="INTERLOCK_ENGINE__API_KEY", help="Bearer key of the server.")
@click.option("--timeout-s", default=5.0, show_default=True, type=click.FloatRange(0.05, 60.0))
@with_json
def probe(url: str, adapter: str, api_key: str | None, timeout_s: float, *, as_json: bool) -> None:
    """Say what stands at URL and what it holds; exit 1 where nobody answers."""
    dialect = None if adapter == "auto" else Dialect(adapter)
    found = asyncio.run(wiring.inspect_engine(url, dialect, api_key=api_key, timeout_s=timeout_s))
    if as_json:
        show_json(_view(found))
    else:
        click.echo(f"{found.dialect.value} at {found.url}")
        for name, value in found.state.items():
            click.echo(f"{name}: {cell(value)}")
    raise SystemExit(1 if found.readiness is Readiness.DOWN else 0)


@command.command("fake")
@click.option("--port", required=True, type=click.IntRange(0, 65_535), help="On loopback; 0 lets the OS choose.")
@click.option("--profile", default="a100-llama3-8b", show_default=True, help="Built-in name or a Vidur mlp.csv.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.01, 10_000.0))
@click.option("--slots", default=128, show_default=True, type=click.IntRange(1, 4_096))
@click.option("--kv-tokens", default=427_008, show_default=True, type=click.IntRange(16))
@click.option("--dialect", default="vllm", show_default=True, type=click.Choice(_FAKED))
def fake(*, port: int, profile: str, speed: float, dialect: str, slots: int, kv_tokens: int) -> None:
    """Serve words at the pace of a profile, with the pages of a dialect beside the OpenAI wire."""
    shape = Shape(dialect=Dialect(dialect), slots=slots, kv_tokens=kv_tokens)
    options = wiring.FakeOptions(port, profile_of(profile), speed, shape)
    asyncio.run(wiring.run_fake(options, lambda url: tell(f"ready {url}")))


def _view(found: EngineReport) -> dict[str, Any]:
    return {
        "url": found.url,
        "adapter": found.dialect.value,
        "models": list(found.models),
        "slots": found.slots,
        "engine_state": found.state,
        "also": dict(found.gauges.also),
    }
