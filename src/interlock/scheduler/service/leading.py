"""Leading pools: takes those that are free, says each half lease that it goes on, lets go of those that were passed.

Grants nothing; the front does, and asks here whether it may. While the store is away who leads leads on, and nobody
can take over, since only the store can say who does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from interlock.contracts.scheduling import PoolLeader
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.lives import is_over
from interlock.foundation.store import Store
from interlock.scheduler import store as rows
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.leading import Candidate, Standing, Term, mark_of

TOPIC = "leaders"
_log = structlog.get_logger(__name__)
Taken = Callable[[Sequence[str]], Awaitable[None]]
Lost = Callable[[str], None]


class LeaderStore(Protocol):
    """Decides who leads a pool. Every call raises `InterlockError` or `OSError` while it is away."""

    async def take(
        self, pools: Sequence[str], me: Candidate, lease_s: float, *, from_late: bool, ended: Collection[str] = ()
    ) -> dict[str, int]:
        """Take pools that nobody leads, or an `ended` holder, or one who is late; return their new fences.

        Of those who are late only a former life at this seat is passed unless `from_late`.
        """
        ...

    async def renew(self, fences: Mapping[str, int], lease_s: float) -> set[str]:
        """Lead on; return the pools whose fence was not passed."""
        ...

    async def leave(self, fences: Mapping[str, int]) -> None:
        """Let go, so that nobody has to wait for the end of the lease."""
        ...

    async def terms(self) -> list[Term]:
        """Return who leads what."""
        ...


class StoredLeaders:
    """Implements `LeaderStore` in PostgreSQL, by its clock alone; edges hear of each change over the feed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def take(
        self, pools: Sequence[str], me: Candidate, lease_s: float, *, from_late: bool, ended: Collection[str] = ()
    ) -> dict[str, int]:
        """Take pools that nobody leads, or an `ended` holder, or one who is late; return their new fences.

        Of those who are late only a former life at this seat is passed unless `from_late`.
        """
        async with self._store.ops("who leads") as tx:
            given = (list(pools), me.holder, me.seat, me.address, lease_s, from_late, list(ended))
            taken = {row["pool"]: row["fence"] for row in await tx.fetch(rows.SQL.take_pools, rows.OWNER, *given)}
            if taken:
                await bump(tx, TOPIC)
        return taken

    async def renew(self, fences: Mapping[str, int], lease_s: float) -> set[str]:
        """Lead on; return the pools whose fence was not passed."""
        mine = (list(fences), list(fences.values()))
        return {row["pool"] for row in await self._store.ops_single(rows.SQL.renew_pools, rows.OWNER, *mine, lease_s)}

    async def leave(self, fences: Mapping[str, int]) -> None:
        """Let go, so that nobody has to wait for the end of the lease."""
        await self._store.ops_single(rows.SQL.leave_pools, rows.OWNER, list(fences), list(fences.values()))

    async def terms(self) -> list[Term]:
        """Return who leads what."""
        found = await self._store.ops_single(rows.SQL.all_leaders, rows.OWNER)
        return [Term(row["pool"], row["holder"], row["address"], row["fence"], row["left_s"]) for row in found]

    async def load(self) -> list[PoolLeader]:
        """Return where edges find the leader of each pool; see `LeaderSource`."""
        return [PoolLeader(each.pool, each.address, each.fence) for each in await self.terms()]


@dataclass(frozen=True, slots=True)
class LeadingStatistics:
    """What is led, and how often that changed since the start."""

    led: int
    taken_total: int
    lost_total: int


class Leading:
    """One scheduler among those of a store. `taken` and `lost` tell its front; `opened` is called when it may grant.

    `is_over` says of a holder's mark whether its process has ended for sure; such a leader is not waited for.
    """

    def __init__(
        self,
        store: LeaderStore,
        me: Candidate,
        *,
        clock: Clock,
        config: SchedulerConfig,
        is_over: Callable[[str], bool] = is_over,
    ) -> None:
        self._store = store
        self._me = me
        self._is_over = is_over
        self._clock = clock
        self._config = config
        self._standing = Standing(me, config.leader_lease_s, config.leader_check_s, config.adopt_wait_s)
        self._wake = asyncio.Event()
        self._taken: Taken | None = None
        self._lost: Lost | None = None
        self._opened: Callable[[], None] | None = None
        self._took = self._let_go = 0
        self._has_looked = False

    def on_change(self, taken: Taken, lost: Lost, opened: Callable[[], None]) -> None:
        """Say whom to tell."""
        self._taken, self._lost, self._opened = taken, lost, opened

    def want(self, pools: Collection[str]) -> None:
        """Note which pools there are."""
        self._standing.want(pools)
        self._has_looked = True
        self._wake.set()

    def stand_in(self, pool: str) -> None:
        """Lead a pool of this start without the store's word, until it can be asked."""
        self._standing.stood_in(self._clock.monotonic(), pool)

    def fences(self) -> Mapping[str, int]:
        """Return the fence of each pool that is led; 0 where the store did not say so yet."""
        return self._standing.led

    def knows(self, pool: str) -> bool:
        """Whether there is such a pool, as far as this scheduler knows; before its first look there may be any."""
        return not self._has_looked or self._standing.knows(pool)

    def leads(self, pool: str) -> bool:
        """Whether this scheduler leads a pool."""
        return self._standing.leads(pool)

    def leader(self, pool: str) -> Term | None:
        """Return who else leads a pool, as far as it is known."""
        return self._standing.leader(pool)

    def may_grant(self, pool: str) -> bool:
        """Whether a grant can be given now; where the lease went by unseen, the store is asked first."""
        now_s = self._clock.monotonic()
        if self._standing.may_grant(now_s, pool):
            return True
        self._wake.set()
        return False

    def statistics(self) -> LeadingStatistics:
        """Return the figures that metrics and tests read."""
        return LeadingStatistics(len(self._standing.led), self._took, self._let_go)

    async def run(self) -> None:
        """Look until cancelled: at each half lease, when another's may have ended, and when somebody asks."""
        while True:
            self._wake.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._standing.next_look_s(self._clock.monotonic())):
                    await self._wake.wait()
                    # Whoever asks again and again asks the store no more often than this.
                    await self._clock.sleep(self._config.leader_rest_s)

    async def look(self) -> None:
        """Renew what is led and take what is free. A store that is away changes nothing."""
        asked_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._config.leader_check_s):
                taken = await self._ask(asked_s)
        except (InterlockError, OSError, TimeoutError) as error:
            self._standing.unanswered(asked_s, self._clock.monotonic())
            _log.debug("leader_waits_for_store", error=str(error))
            taken = {}
        if taken and self._taken is not None:
            self._took += len(taken)
            _log.info("pools.taken", pools=taken, holder=self._me.holder)
            await self._taken(sorted(taken))
        if self._opened is not None:
            self._opened()

    async def leave(self) -> None:
        """Let go of everything at the end; a store that is away learns it from the end of the lease."""
        led = dict(self._standing.led)
        self._standing.leave()
        for pool in led:
            self._tell_lost(pool)
        with suppress(InterlockError, OSError, TimeoutError):
            async with asyncio.timeout(self._config.leader_check_s):
                await self._store.leave(led)

    async def _ask(self, asked_s: float) -> dict[str, int]:
        lease_s = self._config.leader_lease_s
        led = {pool: fence for pool, fence in self._standing.led.items() if fence}
        if led:
            for pool in self._standing.renewed(asked_s, await self._store.renew(led, lease_s)):
                self._tell_lost(pool)
            self._standing.answered(self._clock.monotonic())
        if not self._standing.is_waiting:
            return {}
        terms = await self._store.terms()
        ended = {each.holder for each in terms if self._is_over(mark_of(each.holder))}
        terms = [replace(each, left_s=0.0) if each.holder in ended else each for each in terms]
        now_s = self._clock.monotonic()
        self._standing.answered(now_s)
        for pool in self._standing.learned(now_s, terms):
            self._tell_lost(pool)
        wanted = self._standing.claimable(now_s)
        if not wanted:
            return {}
        from_late = self._standing.may_take_over(now_s)
        taken = await self._store.take(wanted, self._me, lease_s, from_late=from_late, ended=ended)
        fresh = {pool: fence for pool, fence in taken.items() if not self._standing.leads(pool)}
        self._standing.took(now_s, self._clock.monotonic(), taken)
        return fresh

    def _tell_lost(self, pool: str) -> None:
        self._let_go += 1
        _log.info("pools.lost", pool=pool, holder=self._me.holder)
        if self._lost is not None:
            self._lost(pool)
