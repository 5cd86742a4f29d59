"""The commands of `interlock crawl` that need no platform: what a robots.txt says, and the practice web.

Does not connect to anything; `crawl.py` adds them to its group.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final

import click

from interlock.cli.output import cell
from interlock.crawler.adapters.practice_pages import ROBOTS, TRAPS, Knobs
from interlock.crawler.adapters.practice_web import HOSTS_MAX, PracticeWeb
from interlock.crawler.domain.robots import parse_robots
from interlock.crawler.domain.types import UrlRefused
from interlock.crawler.domain.urls import canonicalise
from interlock.foundation.clock import SystemClock

_SHARE: Final = click.FloatRange(0.0, 1.0)


@click.command("robots")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--agent", required=True, metavar="TOKEN", help="Product token to judge for.")
@click.argument("url")
def robots(file: Path, agent: str, url: str) -> None:
    """Say what the robots.txt in FILE tells an agent about URL, and by which line; exit 1 when it disallows."""
    found = canonicalise(url)
    if isinstance(found, UrlRefused):
        raise click.UsageError(f"invalid_url: {found.rule}")
    verdict = parse_robots(file.read_bytes(), agent).verdict(found.target)
    click.echo(f"{'allow' if verdict.allowed else 'disallow'} {verdict.line} {cell(verdict.text)}")
    raise SystemExit(0 if verdict.allowed else 1)


def _robots(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    kind, _, delay = text.partition("=")
    is_delay = kind == "delay" and delay.replace(".", "", 1).isdecimal()
    if not is_delay and text not in ROBOTS:
        raise click.BadParameter(f"write one of {', '.join(ROBOTS)}, delay=SECONDS")
    return text


def _traps(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in named if name not in TRAPS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)} is no trap; traps are {', '.join(TRAPS)}")
    return named


@click.command("practice-web")
@click.option(
    "--hosts", default=1, show_default=True, type=click.IntRange(1, HOSTS_MAX), help="Addresses from 127.20.0.1."
)
@click.option(
    "--port", default=0, type=click.IntRange(0, 65_535), help="Port of all of them; 0 lets the machine choose."
)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="The same seed is the same web.")
@click.option("--pages", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="Pages a host.")
@click.option("--page-kb", default=4, show_default=True, type=click.IntRange(0, 1_024), help="Text of a page.")
@click.option(
    "--links", default=12, show_default=True, type=click.IntRange(0, 5_000), help="Links of a page, at least."
)
@click.option("--latency-ms", default=0.0, type=click.FloatRange(0.0), help="Wait before each answer.")
@click.option("--slow-share", default=0.0, type=_SHARE, help="Share of the hosts that are slow.")
@click.option("--slow-ms", default=3_000.0, show_default=True, type=click.FloatRange(0.0), help="Wait of a slow host.")
@click.option("--error-share", default=0.0, type=_SHARE, help="Share of the hosts that fail.")
@click.option(
    "--error", default="503", show_default=True, type=click.Choice(["429", "500", "503"]), help="How they fail."
)
@click.option("--error-every", default=5, show_default=True, type=click.IntRange(1), help="Each n-th request fails.")
@click.option("--retry-after", default="none", show_default=True, type=click.Choice(["none", "seconds", "date"]))
@click.option("--retry-after-s", default=2, show_default=True, type=click.IntRange(1, 604_800), help="Announced wait.")
@click.option("--clock-skew-s", default=0, type=int, help="How far the clock of this web is ahead.")
@click.option("--robots", default="allow", show_default=True, callback=_robots, help=f"{'|'.join(ROBOTS)}|delay=N.")
@click.option("--traps", default="", callback=_traps, help=f"With commas: {','.join(TRAPS)}.")
@click.option("--duplicates", default=0.0, type=_SHARE, help="Share of the pages that repeat another one's text.")
@click.option("--redirects", default=0.0, type=_SHARE, help="Share of the pages that are linked by a redirect.")
@click.option("--noindex-share", default=0.0, type=_SHARE, help="Share of the pages that say noindex.")
@click.option(
    "--gone-share", default=0.0, type=_SHARE, help="Share of the pages that answer 410 from the second visit."
)
@click.option("--changes-per-visit", default=0.0, type=_SHARE, help="Chance of another text at each visit.")
@click.option("--bombs", is_flag=True, help="Link to a body that swells a thousandfold.")
@click.option("--slow-loris", is_flag=True, help="Link to a page of one octet a second.")
@click.option("--sitemap", is_flag=True, help="Offer a sitemap.")
def practice_web(port: int, error: str, **given: Any) -> None:
    """Serve the synthetic web on loopback until stopped; the first line is its JSON description."""
    asyncio.run(_serve(Knobs(error=int(error), **given), port))


async def _serve(knobs: Knobs, port: int) -> None:
    web = PracticeWeb(knobs, SystemClock())
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await web.start(port)
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror}") from error
    click.echo(json.dumps(web.describe()))
    await stopped.wait()
    await web.close()


OFFLINE: Final = (robots, practice_web)
