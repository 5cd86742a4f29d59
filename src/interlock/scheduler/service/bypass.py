"""Whether edges are to do without the scheduler, and which engines they find then.

Gives no places; an edge that bypasses the scheduler does.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from interlock.contracts.scheduling import BypassEngine
from interlock.foundation.flags import FlagBook
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.store import Store
from interlock.scheduler.service.pools import declared
from interlock.scheduler.service.specs import engine_id

FLAG = "scheduler.bypass"


class Bypass:
    """Implements `BypassSource` over the declared pools."""

    def __init__(self, store: Store, flags: FlagBook) -> None:
        self._store = store
        self._flags = flags

    async def load(self) -> Mapping[str, Sequence[BypassEngine]] | None:
        await self._flags.reload()
        found = self._flags.evaluate(FLAG, SYSTEM_ORGANIZATION_ID, UUID(int=0))
        if found is None or found.value is not True:
            return None
        return {
            spec.name: [
                BypassEngine(engine_id(spec.name, each.url), each.url, each.model, each.slots)
                for each in spec.engines
                if not each.is_draining and not spec.is_draining
            ]
            for spec in await declared(self._store, self._flags)
        }
