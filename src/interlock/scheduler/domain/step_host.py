"""The core in the step loop of our own engine: which of the waiting prompts the next steps read.

Runs no step and knows no library; whoever owns the steps tells what they made. Nothing is refused by prediction here:
what reaches an engine was promised by the front of its pool, and is only put in order.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.contracts.scheduling import GrantRequest, Refused, ServiceClass, Settlement, SettleOutcome
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, WorkspaceId
from interlock.scheduler.domain.hosting import Turn, Turns
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.types import ClassObjective, EngineCondition, EngineState, PoolRules

_NAME: Final = "steps"
_HOUR_MS: Final = 3_600_000
_ENDLESS_US: Final = 1 << 60
_REPORT_US: Final = 250_000
_NOBODY: Final = WorkspaceId(UUID(int=0))


def step_rules(seats_max: int) -> PoolRules:
    """Return the rules of an engine's own queue: the front of its pool has refused what is to be refused."""
    objectives = {each: ClassObjective(_HOUR_MS, None) for each in ServiceClass}
    return PoolRules(
        _NAME, objectives, seats_max, seats_max, queue_wait_factor=1_000.0, lease_us=_ENDLESS_US, predicts=False,
        displaces=False, routes_by_prefix=False,
    )  # fmt: skip


def step_engine(slots: int, context_tokens: int) -> EngineState:
    """Return the engine itself, as its core sees it."""
    return EngineState(_NAME, "", _NAME, slots, context_tokens, EngineCondition.READY)


def step_request(number: int, prompt_tokens: int, max_tokens: int) -> GrantRequest:
    """Return a prompt as the core takes it: of one class and one tenant, so that its order is that of arrival."""
    return GrantRequest(
        f"seq_{number}", _NAME, SYSTEM_ORGANIZATION_ID, _NOBODY, None, ServiceClass.INTERACTIVE, prompt_tokens,
        max(1, max_tokens),
    )  # fmt: skip


@dataclass(slots=True)
class _Held:
    request: GrantRequest
    granted_us: int
    is_read: bool = False
    made: int = 0
    ttft_ms: int | None = None
    reported_us: int = 0


class StepHost:
    """One engine. `chunk_tokens` is how much unread prompt its steps are given at once, whatever the core grants."""

    def __init__(
        self, core: Policy, *, chunk_tokens: int, tick_us: int = _REPORT_US, report_us: int = _REPORT_US
    ) -> None:
        self.turns = Turns(core, tick_us)
        self.refused: list[tuple[str, Refused]] = []
        self._chunk_tokens = chunk_tokens
        self._tick_us = tick_us
        self._report_us = report_us
        self._ticked_us = 0
        self._held: dict[str, _Held] = {}
        self._granted: deque[str] = deque()

    def holds(self, request_id: str) -> bool:
        """Return whether a sequence was granted and has not ended."""
        return request_id in self._held

    def tokens_of(self, request_id: str) -> int:
        """Return what a sequence has made; 0 for one that the steps do not have."""
        held = self._held.get(request_id)
        return 0 if held is None else held.made

    def submit(self, now_us: int, request: GrantRequest) -> None:
        """Let a prompt wait for its turn."""
        self._note(self.turns.arrived(now_us, request))

    def leave(self, now_us: int, request_id: str) -> bool:
        """Take out whoever is gone; return whether the steps have it."""
        if request_id not in self._held:
            self._note(self.turns.gone(now_us, request_id))
            return False
        was_given = request_id not in self._granted
        if not was_given:
            self._granted.remove(request_id)
        self.ended(now_us, request_id, SettleOutcome.CLIENT_GONE)
        return was_given

    def given(self) -> list[str]:
        """Return whose prompts the next step takes in: in the core's order, up to a chunk that nobody has read."""
        unread = sum(
            each.request.input_tokens
            for request_id, each in self._held.items()
            if not each.is_read and request_id not in self._granted
        )
        given = []
        while self._granted and unread < self._chunk_tokens:
            request_id = self._granted.popleft()
            unread += self._held[request_id].request.input_tokens
            given.append(request_id)
        return given

    def made(self, now_us: int, request_id: str, output_tokens: int) -> None:
        """Note the tokens of a sequence; the core hears of the first one and of the rest now and then."""
        held = self._held.get(request_id)
        if held is None:
            return
        held.made = output_tokens
        ttft_ms = None
        if not held.is_read:
            held.is_read = True
            ttft_ms = held.ttft_ms = (now_us - held.granted_us) // 1_000
        elif now_us - held.reported_us < self._report_us:
            return
        held.reported_us = now_us
        self._note(self.turns.progressed(now_us, request_id, output_tokens, ttft_ms))

    def ended(self, now_us: int, request_id: str, outcome: SettleOutcome) -> None:
        """Note the end of a sequence."""
        held = self._held.pop(request_id, None)
        if held is None:
            return
        total_ms = (now_us - held.granted_us) // 1_000
        settlement = Settlement(outcome, held.request.input_tokens, 0, held.made, held.ttft_ms, total_ms)
        self._note(self.turns.settled(now_us, request_id, settlement))

    def look(self, now_us: int) -> None:
        """Look at what time has ended or opened, where a look is due."""
        if self.turns.look_us is not None and self.turns.look_us <= now_us:
            self.looked(now_us)
        if not self.turns.core.is_idle and now_us - self._ticked_us >= self._tick_us:
            self.ticked(now_us)

    def looked(self, now_us: int) -> None:
        """Take in what the engine should have room for by now."""
        self._note(self.turns.looked(now_us))

    def ticked(self, now_us: int) -> None:
        """End what time has ended."""
        self._ticked_us = now_us
        self._note(self.turns.ticked(now_us))

    def engine_is(self, now_us: int, state: EngineState) -> None:
        """Note what became of the engine itself."""
        self._note(self.turns.engine_is(now_us, state))

    def _note(self, turn: Turn) -> None:
        self.refused.extend(turn.refused)
        for grant in turn.grants:
            self._held[grant.request.request_id] = _Held(grant.request, grant.granted_us)
            self._granted.append(grant.request.request_id)
        for request_id in turn.lost:
            self._held.pop(request_id, None)
            if request_id in self._granted:
                self._granted.remove(request_id)
