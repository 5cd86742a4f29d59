"""`interlock engine`: engines by themselves. Needs no running platform."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from interlock import wiring
from interlock.cli.client import DEFAULT_DATA
from interlock.cli.output import cell, leave, show_json, show_rows, with_json
from interlock.cli.replays import profile_of
from interlock.cli.up import tell
from interlock.foundation import config
from interlock.foundation.supervisor import DataDirectory, load_options
from interlock.scheduler.adapters.engine_shelf import AUTO, BACKENDS, OPENVINO, XLLAMACPP, EngineShelf
from interlock.scheduler.adapters.fake_engine import Shape
from interlock.scheduler.config import EngineConfig
from interlock.scheduler.domain.engines import Dialect, EngineReport, Readiness

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]
_DIALECTS = [each.value for each in Dialect]
_FAKED = [each.value for each in (Dialect.VLLM, Dialect.SGLANG, Dialect.TGI, Dialect.LLAMACPP, Dialect.OPENAI)]


_DATA: _Option = click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
_MODEL: _Option = click.option("--model", help="A GGUF file instead of the one of the settings.")
_COLUMNS = ("backend", "model", "state", "is_default", "path")


@click.group("engine")
def command() -> None:
    """Engines: the embedded ones, what stands at a URL, and a scripted one to try against."""


def _config(data: Path, **changes: Any) -> EngineConfig:
    found = config.load(wiring.SECTIONS, load_options(DataDirectory(data)).config_file).section(EngineConfig)
    return dataclasses.replace(found, **{name: value for name, value in changes.items() if value is not None})


@contextmanager
def _shelf(data: Path, model: str | None) -> Iterator[EngineShelf]:
    with wiring.shelf_by_hand(DataDirectory(data), _config(data, model_path=model)) as shelf:
        yield shelf


@command.command("list")
@_MODEL
@_DATA
@with_json
def list_engines(data: Path, model: str | None, *, as_json: bool) -> None:
    """List the embedded backends and which of them serves."""
    with _shelf(data, model) as shelf:
        rows = [dataclasses.asdict(each) for each in shelf.rows()]
    show_rows({"data": rows, "next_cursor": None}, _COLUMNS, as_json=as_json)


@command.command("build")
@_MODEL
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of models instead of DIR/models.")
@_DATA
def build(data: Path, model: str | None, out: Path | None) -> None:
    """Make the OpenVINO IR of the model in an environment of its own, and prove it. Takes minutes and 3 GB."""
    with _shelf(data, model) as shelf:
        where = asyncio.run(shelf.build(out, tell))
    click.echo(f"built {where}")


@command.command("parity")
@click.option("--engine", default=AUTO, show_default=True, help=f"{AUTO}, {XLLAMACPP}, {OPENVINO} or a URL.")
@click.option("--reference", type=click.Choice([XLLAMACPP]), help="Compare with a live engine, not stored answers.")
@click.option("--api-key", envvar="INTERLOCK_ENGINE__API_KEY", help="Bearer key of a server at a URL.")
@_MODEL
@_DATA
@with_json
def parity(data: Path, *, engine: str, reference: str | None, as_json: bool, **given: Any) -> None:
    """Compare what an engine says with its reference; exit 1 where it says something else."""
    if engine not in {AUTO, *BACKENDS} and "://" not in engine:
        raise click.BadParameter(f"it is {AUTO}, {', '.join(BACKENDS)} or a URL", param_hint="--engine")
    with _shelf(data, given["model"]) as shelf:
        chosen = shelf.default() if engine == AUTO else engine
        found = asyncio.run(wiring.prove_engine(shelf, chosen, reference, given["api_key"]))
    view = found.view()
    if as_json:
        show_json(view)
    else:
        for name in ("engine", "reference", "passed", "compared", "equal", "undecided"):
            click.echo(f"{name}: {cell(view[name])}")
        for each in view["refused"]:
            click.echo(f"refused: {each['prompt']}, {each['run']}: {cell(each['found'])} for {cell(each['expected'])}")
    leave(0 if found.passed else 1)


@command.command("serve")
@click.option("--backend", type=click.Choice([AUTO, *BACKENDS]), help="Instead of the one of the settings.")
@_MODEL
@click.option("--port", required=True, type=click.IntRange(0, 65_535), help="On loopback; 0 lets the OS choose.")
@_DATA
def serve(data: Path, backend: str | None, model: str | None, port: int) -> None:
    """Serve the embedded engine by itself, behind the internal token of the data directory."""
    chosen = _config(data, backend=backend, model_path=model)
    asyncio.run(wiring.serve_engine(DataDirectory(data), chosen, port=port, on_ready=lambda url: tell(f"ready {url}")))


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
