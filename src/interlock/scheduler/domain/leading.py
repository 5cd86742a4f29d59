"""Who leads which pool, as one scheduler knows it: what it leads and how surely, whom it waits for, what it may take.

Asks no store and holds no clock; `service/leading.py` does. Times are seconds of the caller's own clock.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_LOOK_S_MIN: Final = 0.05
# How many times as long as it may take a question can take until its failure is noticed.
_SLACK: Final = 1.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scheduler: one life (`holder`) at one place (`seat`), which edges reach at `address`.

    A holder is `SEAT/MARK/ANYTHING`, no two alike; by the mark others on its machine see whether its process has ended.
    """

    holder: str
    seat: str
    address: str


@dataclass(frozen=True, slots=True)
class Term:
    """A pool's leader; `left_s` is how long it leads on without renewing, by the store's clock."""

    pool: str
    holder: str
    address: str
    fence: int
    left_s: float


def mark_of(holder: str) -> str:
    """Return the mark of a holder's process; empty where it left none."""
    parts = holder.split("/")
    return parts[1] if len(parts) == 3 else ""


@dataclass(slots=True)
class _Led:
    fence: int
    sure_until_s: float
    grants_from_s: float


class Standing:
    """What one scheduler leads, and of the other pools who does."""

    def __init__(self, me: Candidate, lease_s: float, check_s: float, adopt_wait_s: float) -> None:
        self._me = me
        self._lease_s = lease_s
        self._check_s = check_s
        self._in_touch_since_s: float | None = None
        self._answered_s = 0.0
        self._adopt_wait_s = adopt_wait_s
        self._wanted: frozenset[str] = frozenset()
        self._led: dict[str, _Led] = {}
        self._others: dict[str, tuple[Term, float]] = {}

    @property
    def led(self) -> Mapping[str, int]:
        """The fence of each pool that this scheduler leads."""
        return {pool: each.fence for pool, each in self._led.items()}

    def want(self, pools: Collection[str]) -> None:
        """Note which pools there are. One that is gone is led on: what still runs in it ends under its fence."""
        self._wanted = frozenset(pools)
        for pool in self._others.keys() - self._wanted:
            del self._others[pool]

    def leave(self) -> None:
        """Lead nothing and want nothing."""
        self._led.clear()
        self.want(())

    def took(self, asked_s: float, now_s: float, fences: Mapping[str, int]) -> None:
        """Note pools that became ours. Nothing is granted before the edges had time to tell what still runs."""
        for pool, fence in fences.items():
            wait_s = self._adopt_wait_s if fence > 1 else 0.0
            self._led[pool] = _Led(fence, asked_s + self._lease_s, now_s + wait_s)
            self._others.pop(pool, None)

    def stood_in(self, now_s: float, pool: str) -> None:
        """Lead a pool without the store's word, which is away: whoever was there before led it from this seat.

        Its lease is counted from the first question, however long a start takes until then.
        """
        self._led[pool] = _Led(0, math.inf, now_s + self._adopt_wait_s)

    def renewed(self, asked_s: float, confirmed: Collection[str]) -> list[str]:
        """Take the store's answer to a renewal asked for at `asked_s`; return the pools that another leads now."""
        lost = [pool for pool, each in self._led.items() if each.fence and pool not in confirmed]
        for pool in lost:
            del self._led[pool]
        for pool in confirmed:
            if pool in self._led:
                self._led[pool].sure_until_s = asked_s + self._lease_s
        return lost

    def answered(self, now_s: float) -> None:
        """Note that the store answered; a silence longer than a lease begins the count anew."""
        if self._in_touch_since_s is None or now_s - self._answered_s > self._lease_s:
            self._in_touch_since_s = now_s
        self._answered_s = now_s

    def may_take_over(self, now_s: float) -> bool:
        """Whether the store was there for so long that a leader who lives has renewed, or knows that it has to."""
        since_s = self._in_touch_since_s
        return since_s is not None and now_s - since_s > self._lease_s + _SLACK * self._check_s

    def unanswered(self, asked_s: float, now_s: float) -> None:
        """Take it that the store is away: nobody else can take over, so whose lease ran when it asked goes on.

        Not where the silence lasted longer than a question may: then this process stood still, and asks again first.
        Where the lease was over before, another may have taken the pool meanwhile: only the store knows.
        """
        if now_s - asked_s > _SLACK * self._check_s:
            return
        for each in self._led.values():
            if asked_s < each.sure_until_s:
                each.sure_until_s = now_s + self._lease_s

    def learned(self, now_s: float, terms: Iterable[Term]) -> list[str]:
        """Note who leads what; return the pools of ours that another was found to lead under a newer fence."""
        lost = []
        for term in terms:
            if term.pool not in self._wanted or term.holder == self._me.holder:
                continue
            own = self._led.get(term.pool)
            if own is not None and own.fence >= term.fence:
                continue
            if own is not None and not own.fence and term.left_s <= 0:
                continue
            if own is not None:
                del self._led[term.pool]
                lost.append(term.pool)
            self._others[term.pool] = (term, now_s + term.left_s)
        return lost

    def claimable(self, now_s: float) -> list[str]:
        """Return the pools that may be asked for: ours only in name, led by nobody known, or by one that is late."""
        unsure = {pool for pool, each in self._led.items() if not each.fence}
        late = {
            pool
            for pool in self._wanted - self._led.keys()
            if pool not in self._others or self._others[pool][1] <= now_s
        }
        return sorted(unsure | late)

    def may_grant(self, now_s: float, pool: str) -> bool:
        """Whether a grant can be given now: what runs was told, and the lease was confirmed while it ran."""
        own = self._led.get(pool)
        return own is not None and own.grants_from_s <= now_s < own.sure_until_s

    @property
    def is_waiting(self) -> bool:
        """Whether there are pools that this scheduler does not lead, or in name alone."""
        return not self._wanted <= {pool for pool, fence in self.led.items() if fence}

    def knows(self, pool: str) -> bool:
        """Whether there is such a pool."""
        return pool in self._wanted or pool in self._led

    def leads(self, pool: str) -> bool:
        """Whether this scheduler leads a pool."""
        return pool in self._led

    def leader(self, pool: str) -> Term | None:
        """Return who else leads a pool; None where nobody is known to."""
        found = self._others.get(pool)
        return None if found is None else found[0]

    def next_look_s(self, now_s: float) -> float:
        """Return in how many seconds there is something to do: renew at half a lease, or take what may be late."""
        ends = [self._lease_s / 2]
        ends += [at - now_s for _, at in self._others.values()]
        ends += [each.grants_from_s - now_s for each in self._led.values() if each.grants_from_s > now_s]
        return max(_LOOK_S_MIN, min(ends))
