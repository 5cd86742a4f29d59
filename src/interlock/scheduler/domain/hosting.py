"""How a host takes turns with a core: what it asks after each event, and when it looks again though nothing happens.

The step loop of our own engine takes them here. The front of pools has callers that wait and takes the same turns by
itself; `tests/scheduler/test_three_hosts.py` holds both equal to the core in virtual time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from interlock.contracts.scheduling import GrantRequest, Refused, Settlement
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.types import EngineState, Grant, Phase

# An engine that is late with its prompts is asked for no more often than this.
LOOK_US_MIN: Final = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one event came to: seats that ended, grants, and requests whose grant nobody renewed."""

    refused: tuple[tuple[str, Refused], ...] = ()
    grants: tuple[Grant, ...] = ()
    lost: tuple[str, ...] = ()


class Turns:
    """One core and its host's side; `look_us` is when `looked` is due, None where nothing is to be expected."""

    def __init__(self, core: Policy, tick_us: int) -> None:
        self.core = core
        self.look_us: int | None = None
        self._tick_us = tick_us

    def arrived(self, now_us: int, request: GrantRequest) -> Turn:
        """Let a request arrive; one that is refused gives nobody else a place."""
        arrival = self.core.arrive(now_us, request)
        if isinstance(arrival.outcome, Refused):
            return Turn((*arrival.displaced, (request.request_id, arrival.outcome)))
        return self._granted(now_us, arrival.displaced)

    def progressed(self, now_us: int, request_id: str, output_tokens: int, ttft_ms: int | None) -> Turn:
        """Note what was generated; a prompt that was read makes room for the next one."""
        self.core.progress(now_us, request_id, output_tokens, ttft_ms)
        return self._granted(now_us) if self.core.waiting else Turn()

    def settled(self, now_us: int, request_id: str, settlement: Settlement) -> Turn:
        """End a grant."""
        running = self.core.running.get(request_id)
        if running is None:
            return Turn()
        known = counted(settlement, (now_us - running.granted_us) // 1_000, running.ttft_ms)
        self.core.settle(now_us, request_id, known)
        return self._granted(now_us)

    def gone(self, now_us: int, request_id: str) -> Turn:
        """Give the seat of a caller who is gone back; a grant is settled instead."""
        if request_id in self.core.waiting and self.core.cancel(now_us, request_id) is Phase.QUEUED:
            return self._granted(now_us)
        return Turn()

    def engine_is(self, now_us: int, state: EngineState) -> Turn:
        """Note an engine's state."""
        return self._granted(now_us, self.core.engine_changed(now_us, state))

    def engine_removed(self, now_us: int, engine_id: str) -> Turn:
        """Take an engine out."""
        return self._granted(now_us, self.core.engine_removed(now_us, engine_id))

    def ticked(self, now_us: int) -> Turn:
        """End what time has ended."""
        expired = self.core.expire(now_us)
        return replace(self._granted(now_us, expired.refused), lost=expired.lost)

    def looked(self, now_us: int) -> Turn:
        """Grant what an engine should have room for by now."""
        self.look_us = None
        return self._granted(now_us)

    def _granted(self, now_us: int, refused: Iterable[tuple[str, Refused]] = ()) -> Turn:
        grants = self.core.next_grants(now_us)
        if self.core.waiting and self.look_us is None:
            opens_us = self.core.opens_in_us(now_us)
            if opens_us is not None and opens_us < self._tick_us:
                self.look_us = now_us + max(LOOK_US_MIN, opens_us)
        return Turn(tuple(refused), tuple(grants))


def counted(settlement: Settlement, held_ms: int, first_ms: int | None) -> Settlement:
    """Return the figures that count: the engine took no longer than the grant was held.

    Of an answer that came whole only our own engine knows when it began, `first_ms` after the grant.
    """
    total_ms = min(settlement.total_ms, held_ms)
    ttft_ms = settlement.ttft_ms
    if ttft_ms is None and first_ms is not None:
        ttft_ms = min(first_ms, total_ms)
    return replace(settlement, total_ms=total_ms, ttft_ms=ttft_ms)
