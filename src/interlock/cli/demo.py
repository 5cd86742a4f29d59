"""`interlock demo`: boots everything, runs the tour on the demo shop through the public API, then keeps serving.

Knows no step of the tour; `examples/shop/tour.py` does.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from interlock import wiring
from interlock.cli.up import announce, forbid_core_dumps, platform_options, tell
from interlock.foundation import config
from interlock.foundation.supervisor import Supervisor, UpOptions

CHECKOUT: Final = Path(__file__).parents[3]
EXIT: Final = "DEMO_EXIT"


@dataclass(slots=True)
class Outcome:
    """Whether every step was verified; None while the tour has not ended."""

    is_verified: bool | None = None


@click.command("demo")
@platform_options
def command(options: UpOptions) -> None:
    """Boot, run the tour, then serve. DEMO_EXIT=1 ends after the tour; exit 0 only if every step was verified."""
    forbid_core_dumps()
    warm = wiring.warm_process(options.directory)
    tour = _tour()
    site = tour.open_site()
    allow = (*(options.crawl_allow or ()), site.allow)
    demo = msgspec.structs.replace(options, is_demo=True, crawl_allow=allow)
    settings = config.load(wiring.SECTIONS, demo.config_file)
    supervisor = wiring.build_supervisor(demo, settings, warm, is_quiet=True)
    outcome = Outcome()
    supervisor.on_ready = lambda url: _show(supervisor, url, partial(tour.run, site=site), outcome)
    tell(f"starting; the log is {demo.directory.logs / 'interlock.log'}")
    code = asyncio.run(supervisor.run())
    raise SystemExit(code or (0 if outcome.is_verified else 1))


async def _show(supervisor: Supervisor, url: str | None, tour: Callable[..., Any], outcome: Outcome) -> None:
    if url is None:
        raise click.UsageError("the tour needs the role edge")
    await announce(supervisor, url)
    key = supervisor.directory.owner_key.read_text(encoding="ascii").strip()
    data = str(supervisor.directory.root)
    toured = await asyncio.to_thread(tour, url, key, data)
    outcome.is_verified = toured.is_verified
    if os.environ.get(EXIT, "") not in {"", "0"}:
        supervisor.stop()
        return
    # The shop's own people see the shop; the operator, whose key stands in the data directory, would see nothing of it.
    for line in await supervisor.greet(toured.key):
        tell(line)
    tell(f"key {toured.key}")
    body = '{"model":"default","messages":[{"role":"user","content":"Hello"}]}'
    tell(f"curl {url}/v1/chat/completions -H 'authorization: Bearer {toured.key}' -d '{body}'")


def _tour() -> Any:
    """Return the tour; the demo shop is part of the source tree, not of the installed package."""
    if not (CHECKOUT / "examples" / "shop" / "tour.py").is_file():
        raise click.ClickException("the demo shop is not here; run `make demo` in a checkout of the source")
    sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module("examples.shop.tour")
