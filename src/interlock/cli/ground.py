"""The store under a command that works without a running platform.

Does not leave a store behind that it started, and never stops one that somebody else uses.
"""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from interlock.foundation import paths
from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Launcher, StoreUrls
from interlock.foundation.store.config import UNHURRIED
from interlock.foundation.store.launcher import Kind
from interlock.foundation.supervisor import DataDirectory
from interlock.foundation.telemetry import configure_logs


@asynccontextmanager
async def running_store(directory: DataDirectory, *, may_create: bool = False) -> AsyncIterator[StoreUrls]:
    """Yield the URLs of the store of a data directory, started alone where nothing runs.

    While it runs alone the directory is held, so that an `up` meanwhile is refused.
    """
    clock = SystemClock()
    # What the command prints is its answer alone; events of the packages it uses go to standard error.
    configure_logs("cli", sys.stderr, clock=clock, redactor=Redactor(()), level=logging.WARNING)
    launcher = Launcher(directory.root, clock, config=UNHURRIED)
    if os.environ.get("DATABASE_URL"):
        yield await launcher.start()
        return
    if not may_create and not (directory.pg / "data").is_dir():
        raise click.ClickException(f"store_not_found: {directory.root} holds no store; start one with `interlock up`")
    directory.prepare()
    held = paths.lock(directory.lock_file)
    try:
        urls = await launcher.start()
        yield urls
    finally:
        if held is not None:
            if launcher.kind is Kind.LAUNCHED:
                await launcher.stop()
                directory.clean_run()
            os.close(held)


def is_running(directory: DataDirectory) -> bool:
    """Tell whether the embedded store of a directory has a living postmaster."""
    pid = paths.read_pid(directory.pg / "data" / "postmaster.pid")
    return pid is not None and Path(f"/proc/{pid}").exists()
