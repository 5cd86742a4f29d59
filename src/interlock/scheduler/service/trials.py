"""Candidates of the pools that this scheduler leads: shadows fed off its hot path, canaries that are looked at.

Writes nothing; what it ended is told to whoever asks, and a new leader begins a try anew.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from interlock.foundation.clock import Clock
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.arms import Arm, is_worse
from interlock.scheduler.domain.canary import Canary
from interlock.scheduler.domain.decisions import Call, RecordedPolicy
from interlock.scheduler.domain.shadow import Shadow
from interlock.scheduler.domain.types import PoolRules
from interlock.scheduler.domain.versions import Candidate

_log = structlog.get_logger(__name__)
Core = RecordedPolicy | Canary
# A core is copied when a try begins, which takes a moment for each request that it holds.
HELD_MAX: Final = 1_000
_SLICE_CALLS: Final = 100
# Where a queue is long a call is dear: requests that arrive wait for a slice no longer than this and one call.
_SLICE_S: Final = 0.005
_SLICE_PAUSE_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Ended:
    """A try that its leader ended: the stage that it is in now, and why in numbers."""

    pool: str
    number: int
    stage: str
    verdict: dict[str, Any]


@dataclass(slots=True)
class _Trial:
    candidate: Candidate
    rules: PoolRules
    began_us: int = 0
    shadow: Shadow | None = None
    canary: Canary | None = None
    heard: deque[Call] = field(default_factory=deque)
    looks: int = 0
    ended: Ended | None = None
    tapped: RecordedPolicy | None = None

    def hush(self) -> None:
        """Hear nothing more."""
        if self.tapped is not None:
            self.tapped.tap = None
        self.heard.clear()


class Trials:
    """One try a pool. `declared` and `looked` give back the core that decides for the pool from now on."""

    def __init__(self, clock: Clock, config: SchedulerConfig) -> None:
        self._clock = clock
        self._config = config
        self._trials: dict[str, _Trial] = {}
        self._work = asyncio.Event()
        self._canaries = asyncio.Event()
        self._verdicts: asyncio.Queue[Ended] = asyncio.Queue()

    def declared(self, pool: str, core: Core, candidate: Candidate | None, rules: PoolRules | None) -> Core:
        """Begin what is to be tried of a pool, and end what is not any more."""
        trial = self._trials.get(pool)
        # A flag of the platform changes what is tried, too; what was ended is not begun again by it.
        if trial is not None and trial.candidate == candidate and (trial.rules == rules or trial.ended is not None):
            return self.looked(pool, core)
        if trial is not None:
            self.forget(pool)
            if isinstance(core, Canary):
                core.close()
        if candidate is not None and rules is not None:
            self._trials[pool] = fresh = _Trial(candidate, rules)
            if trial is not None and trial.ended is not None and candidate.is_share_of(trial.candidate):
                # Whoever widened it did not know yet that it was ended.
                self._end(pool, fresh, trial.ended.stage, trial.ended.verdict)
        return self.looked(pool, core)

    def looked(self, pool: str, core: Core) -> Core:
        """Let a canary go that is over, end one whose candidate broke, and begin a try that waited for its moment."""
        if isinstance(core, Canary) and core.is_over:
            core = core.alone(self._now_us())
        trial = self._trials.get(pool)
        if trial is None or trial.ended is not None:
            return core
        if trial.canary is not None and trial.canary.failure is not None:
            self._end(pool, trial, "failed", {"reason": trial.canary.failure})
        elif isinstance(core, RecordedPolicy) and trial.shadow is None and trial.canary is None:
            return self._begin(trial, core)
        return core

    def forget(self, pool: str) -> None:
        """Drop the try of a pool that is gone or led elsewhere."""
        trial = self._trials.pop(pool, None)
        if trial is not None:
            trial.hush()

    def view(self, pool: str) -> dict[str, Any]:
        """Return how the try of a pool stands."""
        trial = self._trials.get(pool)
        if trial is None:
            return {"number": None, "stage": None}
        found: dict[str, Any] = {
            "number": trial.candidate.number,
            "stage": trial.candidate.stage if trial.ended is None else trial.ended.stage,
            "is_running": trial.ended is None and (trial.shadow is not None or trial.canary is not None),
            "verdict": None if trial.ended is None else trial.ended.verdict,
        }
        if trial.shadow is not None:
            found["shadow"] = {**trial.shadow.figures(), "unheard": len(trial.heard)} | self._newest(trial.shadow)
        if trial.canary is not None:
            live, candidate = trial.canary.arms()
            arms = {"share_bp": trial.canary.share_bp, "looks": trial.looks}
            found["canary"] = {**arms, "live": arm_json(live), "candidate": arm_json(candidate)}
        return found

    async def run(self) -> None:
        """Feed the shadows, a slice at a time; asleep while nothing was decided."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self.feed():
                await self._clock.sleep(_SLICE_PAUSE_S)

    def feed(self) -> bool:
        """Let each shadow hear a slice of what was decided; return whether there is more."""
        return max([self._feed(pool, trial) for pool, trial in list(self._trials.items())], default=False)

    async def look(self) -> None:
        """Judge the canaries now and then; asleep while there is none."""
        while True:
            await self._canaries.wait()
            await self._clock.sleep(self._config.canary_look_s)
            self.look_once()

    def look_once(self) -> None:
        """Judge each canary once; a candidate that keeps fewer promises decides nothing new from this moment on."""
        is_any = False
        for pool, trial in self._trials.items():
            if trial.canary is None or trial.ended is not None:
                continue
            is_any = True
            trial.looks += 1
            live, candidate = trial.canary.arms()
            if is_worse(live, candidate, trial.looks):
                trial.canary.close()
                numbers = {"live": arm_json(live), "candidate": arm_json(candidate), "look": trial.looks}
                self._end(pool, trial, "rolled_back", {"reason": "accepted attainment fell by a point", **numbers})
        if not is_any:
            self._canaries.clear()

    async def verdicts(self, tell: Callable[[Ended], Coroutine[Any, Any, None]]) -> None:
        """Tell of each try that this leader ended, unless it leads the pool no more, or something else is tried.

        One that waits for the store holds up no other. Each has one end, and the next comes from the store.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                ended = await self._verdicts.get()
                trial = self._trials.get(ended.pool)
                if trial is not None and trial.ended is ended:
                    group.create_task(tell(ended))

    def _begin(self, trial: _Trial, core: RecordedPolicy) -> Core:
        if len(core.waiting) + len(core.running) > HELD_MAX:
            return core
        now_us = trial.began_us = self._now_us()
        candidate = trial.candidate
        if candidate.share_bp is not None:
            salt, share_bp = f"{core.rules.name}:{candidate.salt}", candidate.share_bp
            trial.canary = Canary(core, trial.rules, share_bp=share_bp, salt=salt, now_us=now_us)
            self._canaries.set()
            return trial.canary
        trial.shadow = Shadow(core, trial.rules, now_us)

        def hear(call: Call) -> None:
            trial.heard.append(call)
            self._work.set()

        core.tap, trial.tapped = hear, core
        return core

    def _feed(self, pool: str, trial: _Trial) -> bool:
        """Let a shadow hear a slice of what was decided; return whether there is more."""
        if trial.shadow is None or trial.ended is not None:
            return False
        if len(trial.heard) > self._config.shadow_calls_max:
            self._end(pool, trial, "failed", {"reason": f"it fell {len(trial.heard)} calls behind"})
            return False
        began_s = self._clock.monotonic()
        try:
            for _ in range(min(_SLICE_CALLS, len(trial.heard))):
                trial.shadow.hear(trial.heard.popleft())
                if self._clock.monotonic() - began_s >= _SLICE_S:
                    break
        except Exception as error:  # noqa: BLE001 - a worker's outer loop: whatever a candidate raises ends its try alone
            self._end(pool, trial, "failed", {"reason": f"{type(error).__name__}: {error}"[:200]})
        return bool(trial.heard)

    def _end(self, pool: str, trial: _Trial, stage: str, verdict: dict[str, Any]) -> None:
        trial.hush()
        trial.ended = Ended(pool, trial.candidate.number, stage, verdict)
        _log.warning("candidate.ended", pool=pool, number=trial.candidate.number, stage=stage, **verdict)
        self._verdicts.put_nowait(trial.ended)

    def _newest(self, shadow: Shadow) -> dict[str, Any]:
        """Return the differences seen last, with how long ago each was."""
        now_us = self._now_us()
        rows = reversed(shadow.newest)
        return {"newest": [
            {"request_id": each.request_id, "kind": each.kind.value, "live": each.live, "candidate": each.candidate,
             "ago_s": round((now_us - each.at_us) / 1_000_000)}
            for each in rows
        ]}  # fmt: skip

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)


def arm_json(arm: Arm) -> dict[str, Any]:
    """Return an arm as the API shows it."""
    return {
        "arrived": arm.arrived,
        "refused": arm.refused,
        "judged": arm.judged,
        "kept": arm.kept,
        "accepted_attainment": arm.attainment,
    }
