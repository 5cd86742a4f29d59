"""`interlock crawl`: the crawler from a shell.

Does not decide anything: each command is one call, or needs no platform at all.
"""

import click

from interlock.cli.crawl_offline import OFFLINE


@click.group("crawl")
def command() -> None:
    """Crawls, and what a site says to crawlers."""


for _offline in OFFLINE:
    command.add_command(_offline)
