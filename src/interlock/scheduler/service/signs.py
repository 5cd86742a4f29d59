"""Signs of life and death that grants give of their engines: answers without a byte, and streams that stand still.

Takes no engine down; `worker.py` does. How long a stream has waited is measured by its edge, who alone knows whether it
waits for the engine or for a slow reader; a scheduler that stood still itself takes no engine for silent.
"""

import asyncio
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from interlock.contracts.scheduling import GrantProgress, Settlement, SettleOutcome
from interlock.scheduler.config import SchedulerConfig


@dataclass(slots=True)
class _Engine:
    moved_s: float
    streaming: set[str] = field(default_factory=set)
    # How long each stream that waits for its next token has; 0 where it just came.
    silent_ms: dict[str, int] = field(default_factory=dict)
    connect_errors: int = 0


class Signs:
    """What was seen of all engines. Times are seconds of the caller's monotonic clock."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._engines: dict[str, _Engine] = {}
        self._engine_of: dict[str, str] = {}
        self._known: AbstractSet[str] = frozenset()
        # There is an engine that was not there before; who watches them clears it.
        self.has_new_engine = asyncio.Event()
        self._awaited: dict[str, asyncio.Event] = {}

    def reported(self, now_s: float, engine_id: str, told: GrantProgress, *, has_grown: bool) -> None:
        """Take in what an edge reports of a grant that it may go on with."""
        engine = self._engine(now_s, engine_id)
        self._engine_of[told.grant_id] = engine_id
        if has_grown:
            engine.streaming.add(told.grant_id)
            engine.moved_s, engine.silent_ms[told.grant_id] = now_s, 0
            if engine_id in self._awaited:
                self._awaited[engine_id].set()
        elif told.silent_ms is not None:
            engine.silent_ms[told.grant_id] = told.silent_ms
        else:
            engine.silent_ms.pop(told.grant_id, None)

    def settled(self, now_s: float, engine_id: str, settlement: Settlement) -> None:
        """Count grants in a row that ended without a byte from their engine."""
        if settlement.outcome in {SettleOutcome.UNUSED, SettleOutcome.CLIENT_GONE}:
            return
        engine = self._engine(now_s, engine_id)
        is_silent = settlement.outcome is not SettleOutcome.OK and settlement.ttft_ms is None
        engine.connect_errors = engine.connect_errors + 1 if is_silent else 0

    def forget(self, grant_id: str) -> None:
        """Drop a grant that ended, or that another leader has."""
        engine = self._engines.get(self._engine_of.pop(grant_id, ""))
        if engine is not None:
            engine.silent_ms.pop(grant_id, None)

    def acquit(self, engine_id: str) -> None:
        """Note that an engine has proved itself."""
        self._engines.pop(engine_id, None)

    def proved(self, now_s: float, engine_id: str) -> None:
        """Note that an engine completed a canary: it moves, though it may hold the tokens of streams back."""
        engine = self._engines.get(engine_id)
        if engine is not None:
            engine.moved_s = now_s

    def keep(self, engine_ids: AbstractSet[str]) -> None:
        """Take it that there are these engines, and drop what was seen of all others."""
        if engine_ids - self._known:
            self.has_new_engine.set()
        self._known = engine_ids
        for each in [each for each in self._engines if each not in engine_ids]:
            del self._engines[each]

    def is_suspect(self, engine_id: str) -> bool:
        """Return whether so many grants in a row ended without a byte that the engine has to prove itself.

        It is not down yet: requests that no engine would answer look the same, and nobody may take an engine away
        from others by sending three of them.
        """
        engine = self._engines.get(engine_id)
        return engine is not None and engine.connect_errors >= self._config.connect_errors_max

    def is_silent(self, now_s: float, engine_id: str, reading_s: float = 0.0, share: float = 1.0) -> bool:
        """Return whether every stream that waits for the engine has done so too long, and none moved meanwhile.

        Too long is `reading_s` more than usual: an engine that reads a prompt may let its streams wait that long.
        `share` asks about a part of that time.
        """
        engine, silent_s = self._engines.get(engine_id), share * self._config.engine_silent_s + reading_s
        if engine is None or now_s - engine.moved_s < silent_s:
            return False
        return min(engine.silent_ms.values(), default=0) >= silent_s * 1_000

    async def next_token(self, engine_id: str) -> None:
        """Return once a stream of an engine has grown since this was asked; one at a time asks about an engine."""
        self._awaited[engine_id] = moved = asyncio.Event()
        try:
            await moved.wait()
        finally:
            del self._awaited[engine_id]

    def take_streaming(self, engine_id: str) -> int:
        """Return how many streams gave tokens since this was asked last."""
        engine = self._engines.get(engine_id)
        if engine is None:
            return 0
        found, engine.streaming = len(engine.streaming), set()
        return found

    def _engine(self, now_s: float, engine_id: str) -> _Engine:
        engine = self._engines.get(engine_id)
        if engine is None:
            engine = self._engines[engine_id] = _Engine(now_s)
        return engine
