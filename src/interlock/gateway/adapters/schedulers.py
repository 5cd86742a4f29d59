"""Which scheduler is asked about a pool: the one that leads it, as the store or a scheduler itself last said.

Asks nobody; `grants.py` does, and says here what it was told.
"""

from collections.abc import Callable, Sequence

from interlock.contracts.scheduling import LeaderSource, PoolLeader


class Schedulers:
    """The addresses of this machine's schedulers, and the leaders of pools wherever they are."""

    def __init__(self, own: Sequence[str], source: LeaderSource | None = None) -> None:
        self.on_move: Callable[[str], None] = lambda _pool: None
        self.on_new_term: Callable[[], None] = lambda: None
        self._own = tuple(own)
        self._source = source
        self._leaders: dict[str, PoolLeader] = {}
        # How many addresses in a row gave no answer about a pool; the next one is asked.
        self._misses: dict[str, int] = {}

    async def reload(self) -> None:
        """Learn from the store who leads."""
        if self._source is not None:
            for each in await self._source.load():
                self.learn(each)

    def of(self, pool: str) -> str:
        """Return where to ask about a pool."""
        known = self._known(pool)
        return known[self._misses.get(pool, 0) % len(known)]

    def learn(self, leader: PoolLeader) -> None:
        """Take it that this scheduler leads, unless a newer one is known.

        `on_move` hears of another address, `on_new_term` of a scheduler that leads anew at the same one.
        """
        before = self.of(leader.pool)
        known = self._leaders.get(leader.pool)
        if known is not None and known.fence > leader.fence:
            return
        self._leaders[leader.pool] = leader
        self._misses.pop(leader.pool, None)
        if leader.address != before:
            self.on_move(leader.pool)
        elif known is not None and known.fence < leader.fence:
            self.on_new_term()

    def missed(self, pool: str, address: str) -> None:
        """Note that an address gave no answer about a pool; the next known one is asked from now on."""
        if self.of(pool) == address:
            self._misses[pool] = self._misses.get(pool, 0) + 1

    def _known(self, pool: str) -> tuple[str, ...]:
        leader = self._leaders.get(pool)
        return (
            self._own if leader is None else (leader.address, *(each for each in self._own if each != leader.address))
        )
