"""A core that has its engines not for itself: a second core decides for other requests of the same pool.

Chooses neither of the two; `canary.py` does. What the other one decides is told here, so that no engine is given more
than it holds and no promise counts on what the other has promised.
"""

from dataclasses import replace

from interlock.contracts.scheduling import GrantRequest
from interlock.scheduler.domain.asks import Ask, Room, Take
from interlock.scheduler.domain.books import path_of
from interlock.scheduler.domain.fleet import take_of
from interlock.scheduler.domain.policy import KV_OPEN, Policy, length_key
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.types import Grant


class BesidePolicy(Policy):
    """A policy that may have a second one beside it; alone it decides as `Policy` does."""

    _ahead_tokens = 0
    _ahead_requests = 0

    def grant_one(self, now_us: int) -> list[Grant]:
        """Grant at most one: whose turn it is next is asked anew."""
        return self._granted(now_us, 1)

    def foremost(self, now_us: int) -> int | None:
        """Return when the one is due that would be granted now; nobody is granted by asking."""
        self._advance(now_us)
        given = self.fleet.open(now_us, self.rates.tightest_us, has_credits=self.order.has_credits)
        if not given or self.is_draining:
            return None
        found: list[int] = []

        def note(ask: Ask) -> Take:
            take = take_of(self._choose(now_us, ask, given))
            if take is Take.YES:
                found.append(ask.deadline_us)
            return Take.WAITS if take is Take.WAITS else Take.NO

        least = min(each.prefill_left(now_us) for each in given)
        held = self._room(now_us)
        room = Room(sum(each.seats for each in given), least, KV_OPEN, held.seat_waits_us, held.hold_us)
        self.order.next_grant(now_us, room, note)
        return found[0] if found else None

    def offered(self, now_us: int, request: GrantRequest) -> None:
        """Note an arrival that the other core decides: its tenant asks for as much of the pool all the same."""
        self._advance(now_us)
        if isinstance(self.order, PromiseOrder) and not self.retries.is_known(request.request_id):
            expected = self.lengths.expect(length_key(request), request.max_tokens)
            self.order.shares.offer(now_us, path_of(request), request.input_tokens + 2 * expected.p50)

    def ahead(self, _now_us: int, tokens: int, requests: int) -> None:
        """Note what waits in the other core and is granted before whoever comes here next."""
        self._ahead_tokens, self._ahead_requests = tokens, requests

    def _room(self, now_us: int) -> Room:
        room, ahead = super()._room(now_us), self._ahead_requests
        if not ahead:
            return room
        # With the other's queue in front seats may be short though the own one is not.
        waits = room.seat_waits_us or self.seats.waits_us(self.fleet.decoding(self.running.values()))
        begin = min(max(0, ahead - room.seats), max(0, len(waits) - 1))
        left, seats = room.prefill_left + self._ahead_tokens, max(0, room.seats - ahead)
        return replace(room, prefill_left=left, seats=seats, seat_waits_us=waits[begin:])
