"""What the flag `scheduler.policy` has to show before it is set: it would change the order of every pool at once.

Sets nothing; the flags' own service does, and asks here first.
"""

from dataclasses import replace
from typing import Final

from interlock.foundation.flags import FlagSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.scheduler.domain.arms import BASIS_POINTS
from interlock.scheduler.domain.replay import POLICIES
from interlock.scheduler.service.gating import PolicyGate, Step
from interlock.scheduler.service.pools import PoolService

POLICY_FLAG: Final = "scheduler.policy"


class PolicyFlagGuard:
    """Asks the gate of each pool whose policy a value of the flag would change, as if it were set there by hand."""

    def __init__(self, store: Store, pools: PoolService, gate: PolicyGate) -> None:
        self._store = store
        self._pools = pools
        self._gate = gate

    async def __call__(self, scope: Scope, spec: FlagSpec) -> None:
        """Raise `gate_blocked` or `verdict_weight_exceeded` for the first pool that does not admit a value.

        Every value is asked about, also one that no workspace gets today: a flag is turned on without its variants.
        """
        wanted = sorted(each for each in spec.variants.values() if isinstance(each, str) and each in POLICIES)
        async with self._store.transaction(scope) as tx:
            pools = await self._pools.listed(tx)
        for pool in pools:
            for policy in wanted:
                settings = replace(pool.settings, policy=policy)
                if settings != pool.settings:
                    await self._gate.admit(scope, Step("flag.set", pool.name, settings, BASIS_POINTS))
