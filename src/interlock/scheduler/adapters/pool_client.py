"""The live figures of a pool, asked by control of a scheduler of this machine, or of the one that this names as leader.

Changes nothing there: what operators change goes through the store.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.foundation.errors import ERRORS, InterlockError
from interlock.foundation.wire import Client, Timeouts, UpstreamError

_BYTES_MAX: Final = 8 << 20
_NOT_LEADER: Final = ERRORS["not_leader"].http_status


class PoolClient:
    """Reads the schedulers of this machine, and the leader of a pool wherever it is."""

    def __init__(self, client: Client, sockets: Sequence[Path], token: str, timeout_s: float) -> None:
        self._client = client
        self._addresses = [f"unix:{socket}:" for socket in sockets]
        self._timeouts = Timeouts(timeout_s, timeout_s, timeout_s, timeout_s)
        self._headers = ((b"authorization", b"Bearer " + token.encode()),)

    async def view(self, name: str, part: str = "") -> dict[str, Any]:
        """Return the pool, its `metrics` or its `autoscale` signals.

        Raises `pool_unknown`, and `no_capacity` while the scheduler is away.
        """
        target = f"/internal/pools/{name}" + (f"/{part}" if part else "")
        away: Exception | None = None
        asked = list(self._addresses)
        for address in asked:
            try:
                status, found = await self._ask(address + target)
            except (UpstreamError, msgspec.DecodeError) as error:
                away = error
                continue
            if status == 404:
                raise InterlockError("pool_unknown", detail={"pool": name[:64]})
            if status != _NOT_LEADER:
                return found
            leader = found["error"]["detail"].get("leader")
            if leader is not None and leader not in asked:
                asked.append(leader)
        raise InterlockError("no_capacity", "The scheduler is away.") from away

    async def _ask(self, url: str) -> tuple[int, dict[str, Any]]:
        async with self._client.request("GET", url, self._headers, b"", self._timeouts) as answer:
            found: dict[str, Any] = msgspec.json.decode(await answer.read(_BYTES_MAX))
            return answer.status, found
