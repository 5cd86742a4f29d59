"""The overview: the last hour of a tenant in figures and minutes, live.

Keeps no figures of its own beyond this process; what it shows is read from the stories.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.console.config import ConsoleConfig
from interlock.console.frame import Frame, place_of
from interlock.console.render import fragment
from interlock.console.standing import Standing, Standings
from interlock.console.views import CAUTION, GO, STOP, Sample, figures, is_of_console, minutes, row, sample
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.telemetry import RequestRecord, StoryFilters, StoryStore
from interlock.foundation.wire import encode_event

HOUR_US: Final = 3_600_000_000
MINUTES: Final = 60
_PAGE_ROWS: Final = 200
# A story is filed under the time at which its request came in, and arrives when it has ended.
_SETTLED_US: Final = 120_000_000
_TROUBLES: Final = 8
LATELY_US: Final = 300_000_000
# From this share of failures on, somebody is needed; below it a failure is worth a look.
FAILING_SHARE: Final = 0.05


@dataclass(slots=True)
class Hour:
    """What is known of the last hour of one tenant. `is_cut` when there were more requests than are counted."""

    samples: dict[UUID, Sample] = field(default_factory=dict)
    troubles: list[RequestRecord] = field(default_factory=list)
    read_s: float = float("-inf")
    read_whole_s: float = float("-inf")
    is_cut: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Hours:
    """The last hour of every tenant that somebody looks at, shared between those who look."""

    def __init__(self, stories: StoryStore, clock: Clock, config: ConsoleConfig) -> None:
        self._stories = stories
        self._clock = clock
        self._config = config
        self._hours: OrderedDict[tuple[UUID, UUID | None], Hour] = OrderedDict()

    def statistics(self) -> dict[str, int]:
        """Return how many tenants are kept, of how many at most."""
        return {"tenants": len(self._hours), "tenants_max": self._config.overview_tenants_max}

    async def of(self, scope: Scope) -> Hour:
        """Return the last hour of a scope, at most one interval old."""
        workspace = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        key = (scope.organization_id, workspace)
        hour = self._hours.setdefault(key, Hour())
        self._hours.move_to_end(key)
        while len(self._hours) > self._config.overview_tenants_max:
            self._hours.popitem(last=False)
        async with hour.lock:
            if self._clock.monotonic() - hour.read_s >= self._config.live_interval_s * 0.9:
                await self._refresh(scope, hour)
        return hour

    async def standing(self, scope: Scope) -> Standing:
        """Tell how the requests of the last minutes ended."""
        from_us = self._clock.now_us() - LATELY_US
        lately = [each for each in (await self.of(scope)).samples.values() if each.started_us >= from_us]
        failed = sum(each.tone == STOP for each in lately)
        refused = sum(each.tone == CAUTION for each in lately)
        if not lately:
            return Standing("", "none in the last five minutes")
        tone = STOP if failed >= FAILING_SHARE * len(lately) else CAUTION if failed else GO
        return Standing(tone, f"{len(lately):,} came in the last five minutes; {refused:,} refused, {failed:,} failed")

    async def _refresh(self, scope: Scope, hour: Hour) -> None:
        now_s, now_us = self._clock.monotonic(), self._clock.now_us()
        is_whole = now_s - hour.read_whole_s >= self._config.overview_reread_s
        from_us = now_us - (HOUR_US if is_whole else _SETTLED_US)
        records, is_cut = await self._newest(scope, from_us)
        if is_whole:
            hour.samples, hour.troubles, hour.is_cut, hour.read_whole_s = {}, [], is_cut, now_s
        fresh = {each.id: sample(each) for each in records}
        kept = {**hour.samples, **fresh}
        newest = sorted(kept, key=lambda each: each.int, reverse=True)[: self._config.overview_records_max]
        hour.samples = {each: kept[each] for each in newest if kept[each].started_us >= now_us - HOUR_US}
        older = [each for each in hour.troubles if each.id not in fresh]
        troubles = [each for each in records if sample(each).tone != GO and each.complete]
        hour.troubles = sorted([*troubles, *older], key=lambda each: each.id.int, reverse=True)[:_TROUBLES]
        hour.read_s = now_s

    async def _newest(self, scope: Scope, from_us: int) -> tuple[list[RequestRecord], bool]:
        found: list[RequestRecord] = []
        cursor = None
        while len(found) < self._config.overview_records_max:
            page = await self._stories.search(scope, StoryFilters(from_us=from_us), cursor, _PAGE_ROWS)
            found += [each for each in page.records if not is_of_console(each)]
            cursor = page.next_cursor
            if cursor is None:
                return found, len(found) > self._config.overview_records_max
        return found, True


class Overview:
    """Serves the page and its live events."""

    def __init__(self, frame: Frame, hours: Hours, standings: Standings, clock: Clock, config: ConsoleConfig) -> None:
        self._frame = frame
        self._hours = hours
        self._standings = standings
        self._clock = clock
        self._config = config
        self._streams = 0

    def statistics(self) -> dict[str, int]:
        """Return the live pages that are open, of how many at most."""
        return {"live_streams": self._streams, "live_streams_max": self._config.live_streams_max}

    async def show(self, call: Call) -> Reply:
        """Answer the page."""
        values = {**self._values(await self._hours.of(call.within)), **await self._standings.values(call)}
        return self._frame.page(call, "overview", {**values, "place": place_of(call.within)})

    async def live(self, call: Call) -> Reply:
        """Answer the events of the page. Raises `overloaded` when too many are open."""
        if self._streams >= self._config.live_streams_max:
            raise InterlockError("overloaded", retry_after_s=5.0)
        await self._hours.of(call.within)
        return Reply(stream=self._events(call.within), media_type="text/event-stream")

    async def _events(self, scope: Scope) -> AsyncIterator[bytes]:
        self._streams += 1
        until_s = self._clock.monotonic() + self._config.live_seconds_max
        told: dict[str, str] = {}
        try:
            while self._clock.monotonic() < until_s:
                pieces = self._pieces(self._values(await self._hours.of(scope)))
                changed = [name for name, (mark, _) in pieces.items() if told.get(name) != mark]
                told = {name: mark for name, (mark, _) in pieces.items()}
                # A comment keeps the connection, and finds out that the reader is gone.
                yield b"".join(encode_event(data=pieces[name][1], event=name) for name in changed) or b": same\n\n"
                await self._clock.sleep(self._config.live_interval_s)
        except InterlockError:
            return  # The store is away: the page connects anew, and is told so then.
        finally:
            self._streams -= 1

    @staticmethod
    def _pieces(values: dict[str, Any]) -> dict[str, tuple[str, str]]:
        """Return each live part with the mark that says whether it is another than before."""
        figures_html = fragment("overview_figures.html", values)
        counted = msgspec.json.encode(values["minutes"]).decode()
        # Only other rows are news: to replace the same ones each second would take the focus from its reader.
        rows = " ".join(each.id for each in values["troubles"])
        return {
            "figures": (figures_html, figures_html),
            "minutes": (counted, counted),
            "troubles": (rows, fragment("overview_troubles.html", values)),
        }

    def _values(self, hour: Hour) -> dict[str, Any]:
        now_us = self._clock.now_us()
        samples = list(hour.samples.values())
        counted = minutes(samples, now_us, MINUTES)
        return {
            "figures": figures(samples),
            "minutes": counted,
            "chart_words": chart_words(counted),
            "has_requests": bool(samples),
            "is_cut": hour.is_cut,
            "counted": f"{len(samples):,}",
            "troubles": [row(each, now_us) for each in hour.troubles if each.started_us >= now_us - HOUR_US],
        }


def chart_words(counted: list[dict[str, int]]) -> str:
    """Tell what the chart shows to those who do not see it."""
    totals = {name: sum(each[name] for each in counted) for name in ("answered", "refused", "failed")}
    busiest = max(sum(each[name] for name in totals) for each in counted)
    return (
        f"Requests a minute over the last {len(counted)} minutes: {totals['answered']} answered, "
        f"{totals['refused']} refused, {totals['failed']} failed; at most {busiest} in one minute."
    )
