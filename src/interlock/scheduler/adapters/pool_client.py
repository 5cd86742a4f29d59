"""The live figures of a pool, asked by control of a scheduler of this machine, or of the one that this names as leader.

Changes nothing there: what operators change goes through the store.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.foundation.errors import InterlockError
from interlock.foundation.wire import Client, Timeouts, UpstreamError

_BYTES_MAX: Final = 8 << 20
_OK: Final = 200


class _Fault(msgspec.Struct):
    code: str
    detail: dict[str, Any] = {}


class _FaultBody(msgspec.Struct):
    error: _Fault


class PoolClient:
    """Reads the schedulers of this machine, and the leader of a pool wherever it is."""

    def __init__(self, client: Client, sockets: Sequence[Path], token: str, timeout_s: float) -> None:
        self._client = client
        self._addresses = [f"unix:{socket}:" for socket in sockets]
        self._timeouts = Timeouts(timeout_s, timeout_s, timeout_s, timeout_s)
        self._headers = ((b"authorization", b"Bearer " + token.encode()),)

    async def view(self, name: str, part: str = "") -> dict[str, Any]:
        """Return the pool, its `metrics` or its `autoscale` signals.

        Raises `pool_unknown`, and `no_capacity` while the scheduler is away or says anything else.
        """
        target = f"/internal/pools/{name}" + (f"/{part}" if part else "")
        away: Exception | None = None
        asked = list(self._addresses)
        for address in asked:
            try:
                found = await self._ask(address + target)
            except (UpstreamError, msgspec.DecodeError) as error:
                away = error
                continue
            if not isinstance(found, _Fault):
                return found
            if found.code == "pool_unknown":
                raise InterlockError("pool_unknown", detail={"pool": name[:64]})
            leader = found.detail.get("leader") if found.code == "not_leader" else None
            if isinstance(leader, str) and leader not in asked:
                asked.append(leader)
        raise InterlockError("no_capacity", "The scheduler is away.") from away

    async def _ask(self, url: str) -> "dict[str, Any] | _Fault":
        async with self._client.request("GET", url, self._headers, b"", self._timeouts) as answer:
            content = await answer.read(_BYTES_MAX)
            if answer.status == _OK:
                return msgspec.json.decode(content, type=dict[str, Any])
            return msgspec.json.decode(content, type=_FaultBody).error
