"""The live figures of a pool, asked of the scheduler over its socket by control.

Changes nothing there: what operators change goes through the store.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.foundation.errors import InterlockError
from interlock.foundation.wire import Client, Timeouts, UpstreamError

_BYTES_MAX: Final = 8 << 20


class PoolClient:
    """Reads the scheduler of this machine."""

    def __init__(self, client: Client, socket: Path, token: str, timeout_s: float) -> None:
        self._client = client
        self._timeouts = Timeouts(timeout_s, timeout_s, timeout_s, timeout_s)
        self._base = f"unix:{socket}:/internal/pools"
        self._headers = ((b"authorization", b"Bearer " + token.encode()),)

    async def view(self, name: str, part: str = "") -> dict[str, Any]:
        """Return the pool, its `metrics` or its `autoscale` signals.

        Raises `pool_unknown`, and `no_capacity` while the scheduler is away.
        """
        path = f"{self._base}/{name}" + (f"/{part}" if part else "")
        try:
            async with self._client.request("GET", path, self._headers, b"", self._timeouts) as answer:
                content = await answer.read(_BYTES_MAX)
                if answer.status == 404:
                    raise InterlockError("pool_unknown", detail={"pool": name[:64]})
                found: dict[str, Any] = msgspec.json.decode(content)
        except (UpstreamError, msgspec.DecodeError) as error:
            raise InterlockError("no_capacity", "The scheduler is away.") from error
        return found
