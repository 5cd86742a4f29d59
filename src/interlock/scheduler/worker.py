"""Watches the engines: two failed probes, or streams and canary that stand still, take one down; a canary brings it up.

Our own ones are asked how far they are with their prompts. Decides nothing about requests; it tells the front.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from interlock.foundation.clock import Clock
from interlock.scheduler.adapters.inspector import EngineInspector
from interlock.scheduler.adapters.remote import EngineProbe
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.engines import Dialect, GaugeTrust, KvLimit
from interlock.scheduler.domain.types import EngineCondition, EngineState
from interlock.scheduler.service import FrontService

# The part of the time after which a silent engine is down at which it is asked for the canary.
_ASKED_AT: Final = 0.5
_log = structlog.get_logger(__name__)


class EngineWatch:
    """One loop for all engines of a front."""

    def __init__(
        self,
        front: FrontService,
        probe: EngineProbe,
        *,
        clock: Clock,
        config: SchedulerConfig,
        inspector: EngineInspector | None = None,
    ) -> None:
        self._front = front
        self._probe = probe
        self._clock = clock
        self._config = config
        self._inspector = inspector
        self._trusts: dict[str, GaugeTrust] = {}
        self._limits: dict[str, KvLimit] = {}
        self._failures: dict[str, int] = {}
        self._failed_canary: set[str] = set()
        self._draining_since: dict[str, float] = {}
        # Engines load while the scheduler already answers: until then a silent one counts as starting.
        self._start_by = clock.monotonic() + config.engine_start_s

    async def run(self) -> None:
        """Look at every engine, sooner again at one that is not ready, and at once at a new one.

        What one keeps waiting delays no other.
        """
        config, looks = self._config, _Looks()
        async with asyncio.TaskGroup() as group:
            while True:
                self._front.signs.has_new_engine.clear()
                for pool_name, engine in self._engines():
                    rest_s = config.probe_interval_s if _is_ready(engine) else config.probe_starting_s
                    if looks.is_due(engine.engine_id, self._clock.monotonic(), rest_s):
                        looking = group.create_task(self._look_at(pool_name, engine))
                        looking.add_done_callback(looks.ended(engine.engine_id, self._clock.monotonic))
                is_settled = all(_is_ready(engine) for _, engine in self._engines())
                with suppress(TimeoutError):
                    async with asyncio.timeout(config.probe_interval_s if is_settled else config.probe_starting_s):
                        await self._front.signs.has_new_engine.wait()

    async def run_once(self) -> None:
        """Look at every engine once."""
        async with asyncio.TaskGroup() as group:
            for pool_name, engine in self._engines():
                group.create_task(self._look_at(pool_name, engine))

    async def _look_at(self, pool_name: str, engine: EngineState) -> None:
        is_alive = await self._probe.is_alive(engine)
        if engine.condition is not EngineCondition.DOWN:
            engine = await self._judge_silence(pool_name, engine, is_alive)
        failures = 0 if is_alive else self._failures.get(engine.engine_id, 0) + 1
        self._failures[engine.engine_id] = failures
        is_gone = failures >= self._config.probe_failures_max
        if engine.condition is EngineCondition.DRAINING:
            self._bound_drain(pool_name, engine)
        else:
            self._draining_since.pop(engine.engine_id, None)
        if engine.condition is EngineCondition.READY:
            if is_gone or await self._is_convicted(pool_name, engine, is_alive):
                self._note(pool_name, engine, EngineCondition.DOWN)
            else:
                await self._scrape(pool_name, engine)
        elif is_alive and engine.condition is not EngineCondition.DRAINING:
            await self._try(pool_name, engine)
        elif engine.condition is EngineCondition.STARTING and is_gone and self._clock.monotonic() >= self._start_by:
            self._note(pool_name, engine, EngineCondition.DOWN)

    def _bound_drain(self, pool_name: str, engine: EngineState) -> None:
        """Take the grants back that an engine still serves so long after it got its last one; it stays drained."""
        now_s = self._clock.monotonic()
        since_s = self._draining_since.setdefault(engine.engine_id, now_s)
        granted, _ = self._front.slots_of(pool_name, engine.engine_id)
        if granted and now_s - since_s >= self._config.drain_s:
            self._draining_since[engine.engine_id] = now_s
            _log.warning("engine.drain_ended", pool=pool_name, engine=engine.engine_id, revoked=granted)
            self._take_back(pool_name, engine)

    async def _judge_silence(self, pool_name: str, engine: EngineState, is_alive: bool) -> EngineState:  # noqa: FBT001 - one call
        """Take an engine down whose streams all stand still, whatever its pages say; only a canary brings it back.

        Half of that time before, it is asked for the canary: one that answers goes on, whatever it holds back.
        """
        if is_alive and self._front.is_silent(pool_name, engine.engine_id, _ASKED_AT):
            await self._ask_the_silent(pool_name, engine)
        if not self._front.is_silent(pool_name, engine.engine_id):
            return engine
        granted, _ = self._front.slots_of(pool_name, engine.engine_id)
        _log.warning("engine.silent", pool=pool_name, engine=engine.engine_id, url=engine.url, revoked=granted)
        self._failed_canary.add(engine.engine_id)
        if engine.condition is EngineCondition.DRAINING:
            self._take_back(pool_name, engine)
            return engine
        return self._note(pool_name, engine, EngineCondition.DOWN)

    async def _ask_the_silent(self, pool_name: str, engine: EngineState) -> None:
        """Note that a silent engine moved where it completes the canary in what is left of the time of its streams."""
        try:
            async with asyncio.timeout((1 - _ASKED_AT) * self._config.engine_silent_s):
                is_proved = await self._probe.answers(engine)
        except TimeoutError:
            is_proved = False
        if is_proved:
            _log.info("engine.holds_back", pool=pool_name, engine=engine.engine_id, url=engine.url)
            self._front.signs.proved(self._clock.monotonic(), engine.engine_id)

    def _take_back(self, pool_name: str, engine: EngineState) -> None:
        """Take the grants of a drained engine back; it stays drained."""
        found = self._as_it_was(pool_name, engine)
        if found is not None:
            for condition in (EngineCondition.DOWN, EngineCondition.DRAINING):
                self._front.engine_changed(pool_name, replace(found, condition=condition))

    async def _scrape(self, pool_name: str, engine: EngineState) -> None:
        """Read the gauges. Own accounting decides; a page that is believed only adds the seats that others take."""
        if self._inspector is None or engine.dialect in {None, Dialect.OPENAI, Dialect.EMBEDDED}:
            return
        gauges = await self._inspector.scrape(engine.url, engine.dialect)
        trust = self._trusts.setdefault(engine.engine_id, GaugeTrust(engine.slots))
        limit = self._limits.setdefault(engine.engine_id, KvLimit())
        before = trust.verdict
        trust.scraped(gauges, self._front.account(pool_name, engine.engine_id))
        preemptions = None if gauges is None else gauges.also.get("preemptions")
        limit.scraped(round(self._clock.monotonic() * 1_000_000), preemptions)
        if trust.verdict is not before:
            _log.warning("engine.gauges", pool=pool_name, engine=engine.engine_id, verdict=trust.verdict.value)
        self._front.engine_scraped(pool_name, engine.engine_id, trust.others, limit.share)

    async def _try(self, pool_name: str, engine: EngineState) -> None:
        """Ask for the canary completion. Calls wait for its outcome, but not for that of an engine that failed one."""
        if engine.engine_id not in self._failed_canary:
            engine = self._note(pool_name, engine, EngineCondition.STARTING)
        if await self._is_proved(engine):
            self._failed_canary.discard(engine.engine_id)
            await self._time(pool_name, engine)
            self._note(pool_name, engine, EngineCondition.READY)
            return
        granted, _ = self._front.slots_of(pool_name, engine.engine_id)
        # The streams that a new leader has adopted are no worse a proof than the canary that waits behind them.
        if not granted:
            self._failed_canary.add(engine.engine_id)
            self._note(pool_name, engine, EngineCondition.DOWN)

    async def _is_proved(self, engine: EngineState) -> bool:
        """Return whether the canary comes through; streams that a new leader adopted prove as much before it does."""
        canary = asyncio.ensure_future(self._probe.answers(engine))
        token = asyncio.ensure_future(self._front.signs.next_token(engine.engine_id))
        is_new = engine.engine_id not in self._failed_canary
        try:
            await asyncio.wait([canary, token] if is_new else [canary], return_when=asyncio.FIRST_COMPLETED)
            return True if token.done() and is_new else canary.result()
        finally:
            canary.cancel()
            token.cancel()

    async def _time(self, pool_name: str, engine: EngineState) -> None:
        """Time our own engine before it gets work: it shares its cores, so what was declared may be far off."""
        granted, _ = self._front.slots_of(pool_name, engine.engine_id)
        if engine.dialect is not Dialect.EMBEDDED or granted:
            return
        found = await self._probe.pace(engine)
        if found is not None:
            self._front.engine_paced(pool_name, engine.engine_id, *found)

    async def _is_convicted(self, pool_name: str, engine: EngineState, is_alive: bool) -> bool:  # noqa: FBT001 - one call
        """Return whether an engine that gave several grants no byte fails the probe or the canary too."""
        if not self._front.signs.is_suspect(engine.engine_id):
            return False
        granted, slots = self._front.slots_of(pool_name, engine.engine_id)
        if is_alive and granted >= slots:
            # A full engine makes the canary wait, so its silence would prove nothing.
            return False
        if not is_alive:
            return True
        if await self._probe.answers(engine):
            self._front.signs.acquit(engine.engine_id)
            return False
        self._failed_canary.add(engine.engine_id)
        return True

    def _engines(self) -> list[tuple[str, EngineState]]:
        front = self._front
        return [(pool_name, engine) for pool_name in front.pool_names() for engine in front.engines(pool_name)]

    def _note(self, pool_name: str, engine: EngineState, condition: EngineCondition) -> EngineState:
        found = self._as_it_was(pool_name, engine)
        if condition is engine.condition or found is None:
            return engine
        changed = replace(found, condition=condition)
        _log.info("engine.changed", pool=pool_name, engine=engine.engine_id, url=engine.url, condition=condition.value)
        self._front.engine_changed(pool_name, changed)
        return changed

    def _as_it_was(self, pool_name: str, engine: EngineState) -> EngineState | None:
        """Return an engine as it is declared by now; None where it was drained, or given work again, amid the look.

        What a look found then is of no use any more: it would give work to an engine that was to get none.
        """
        engines = self._front.engines(pool_name)
        return next(
            (each for each in engines if (each.engine_id, each.condition) == (engine.engine_id, engine.condition)), None
        )


@dataclass(slots=True)
class _Looks:
    """When each engine was looked at last; one that is being looked at is not due."""

    _last_s: dict[str, float] = field(default_factory=dict)

    def is_due(self, engine_id: str, now_s: float, rest_s: float) -> bool:
        """Return whether it is time for the next look, which begins with that."""
        if now_s < self._last_s.get(engine_id, -math.inf) + rest_s:
            return False
        self._last_s[engine_id] = math.inf
        return True

    def ended(self, engine_id: str, now_s: Callable[[], float]) -> Callable[[object], None]:
        """Return what is called at the end of a look."""

        def note(_look: object) -> None:
            self._last_s[engine_id] = now_s()

        return note


def _is_ready(engine: EngineState) -> bool:
    return engine.condition is EngineCondition.READY


class ReadingWatch:
    """Asks our own engines how far they are while prompts are unread: of an answer that comes whole no edge knows."""

    def __init__(self, front: FrontService, probe: EngineProbe, *, clock: Clock, config: SchedulerConfig) -> None:
        self._front = front
        self._probe = probe
        self._clock = clock
        self._config = config

    async def run(self) -> None:
        """Ask again and again while something runs; asleep otherwise."""
        while True:
            await self._front.is_busy()
            await self._clock.sleep(self._config.reading_interval_s)
            await self.run_once()

    async def run_once(self) -> None:
        """Ask every engine of our own that has unread prompts."""
        for engine in self._front.reading_engines():
            told = await self._probe.reading(engine)
            self._front.read([(each.grant_id, each.output_tokens, each.read_ms_ago) for each in told])
