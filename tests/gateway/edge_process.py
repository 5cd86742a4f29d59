"""An edge in a process of its own, for tests in which processes share limits: `python -m tests.gateway.edge_process`.

Reads one line of JSON: the store's URLs, the tenant, its own name, where it meets the other
workers of its machine, and the key of verdicts where there is one. Prints
its port, serves until stdin ends.
"""

import asyncio
import json
import sys
from pathlib import Path
from uuid import UUID

import structlog

from interlock.foundation.store import StoreUrls
from tests.gateway.verdicts import Published
from tests.gateway.worlds import edge_alone
from tests.support.store import opened, scope_of


async def main():
    # The one line on stdout is the port.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = json.loads(sys.stdin.readline())
    scope = scope_of(UUID(given["organization_id"]), UUID(given["workspace_id"]))
    key = given.get("verdict_key")
    verdicts = None if key is None else Published(bytes.fromhex(key), scope.organization_id)
    async with (
        opened(StoreUrls(**given["urls"])) as store,
        edge_alone(
            store, scope, given["worker"], verdicts=verdicts, limits_socket=_path(given.get("limits_socket"))
        ) as edge,
    ):
        sys.stdout.write(f"{edge.port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def _path(text):
    return None if text is None else Path(text)


if __name__ == "__main__":
    asyncio.run(main())
