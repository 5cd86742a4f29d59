"""The flags of `interlock up`, as the supervisor and every role it starts see them.

Does not parse a command line and holds no secret: it is written to `DIR/run/options.json`.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from interlock.foundation.paths import DataDirectory, write_private

ROLES: Final = ("edge", "scheduler", "engine", "control", "worker")


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`engine` is `none`, `embedded` or the URL of an OpenAI-compatible server; `config` an absolute path or None.

    `pool` names the pool that the server behind a URL is put into, None gives it requests without the scheduler.
    What begins with `crawl_` takes the place of the setting of the same name, None leaves it.
    `agent_slots` bounds the tasks that one worker runs at once; `test_models` registers `replay` and `adversary`.
    """

    data: str
    port: int = 8080
    host: str = "127.0.0.1"
    config: str | None = None
    is_demo: bool = False
    roles: tuple[str, ...] = ROLES
    edge_workers: int = 1
    workers: int = 1
    schedulers: int = 1
    engine: str = "embedded"
    pool: str | None = None
    crawl_allow: tuple[str, ...] | None = None
    crawl_slots: int | None = None
    crawl_contact: str | None = None
    agent_slots: int = 4
    test_models: bool = False

    @property
    def directory(self) -> DataDirectory:
        """The data directory that `--data` names."""
        return DataDirectory(self.data)

    @property
    def config_file(self) -> Path | None:
        """The settings file, where one was named."""
        return None if self.config is None else Path(self.config)


def default_edge_workers() -> int:
    """Return the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def save_options(options: UpOptions) -> None:
    """Write the options for the roles and for `doctor`."""
    write_private(options.directory.options_file, msgspec.json.encode(options))


def load_options(directory: DataDirectory) -> UpOptions:
    """Return the options of the running `up`; a role started by hand gets the defaults."""
    try:
        return msgspec.json.decode(directory.options_file.read_bytes(), type=UpOptions)
    except FileNotFoundError:
        return UpOptions(data=str(directory.root))
