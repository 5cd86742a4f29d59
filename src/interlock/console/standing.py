"""How the platform stands: one line for each screen that has something to say, and what of it needs somebody.

Judges nothing; each system's own pages say how they stand, and only of screens that the reader may open.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import HTML
from interlock.console.config import ConsoleConfig
from interlock.console.render import PAGE_HEADERS, fragment
from interlock.console.screens import SCREENS
from interlock.console.views import CAUTION, GO, STOP
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope

LAMPS: Final = {GO: "fine", CAUTION: "needs a look", STOP: "needs somebody now", "": "at rest"}
_SEEN_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Standing:
    """How one screen's things stand: a signal, empty where there is nothing yet, and what it is about in words."""

    tone: str
    words: str


Watcher = Callable[[Scope], Awaitable[Standing]]
_Key = tuple[str, UUID, UUID | None, bool]


@dataclass(frozen=True, slots=True)
class StandingLine:
    """One line of the overview."""

    title: str
    path: str
    tone: str
    lamp: str
    words: str


@dataclass(slots=True)
class Standings:
    """Reads what `watchers` tell, by the id of their screen, and keeps it for a moment between those who look."""

    watchers: Mapping[str, Watcher]
    clock: Clock
    config: ConsoleConfig
    _kept: OrderedDict[_Key, tuple[float, Standing]] = field(default_factory=OrderedDict)

    async def show(self, call: Call) -> Reply:
        """Answer the lines alone, for a page that is open already; it keeps those that it has seen."""
        values = await self.values(call)
        is_news = call.query.get("seen") != values["standing_seen"]
        headers = PAGE_HEADERS if is_news else {**PAGE_HEADERS, "hx-reswap": "none"}
        content = fragment("overview_standing.html", values).encode()
        return Reply(content=content, media_type=f"{HTML}; charset=utf-8", headers=headers)

    async def values(self, call: Call) -> dict[str, Any]:
        """Return what the lines and their sentence show to this reader."""
        told = [
            StandingLine(screen.title, screen.path, standing.tone, LAMPS[standing.tone], standing.words)
            for screen in SCREENS
            if screen.id in self.watchers and call.may_open(screen.path)
            for standing in [await self._of(screen.id, call.within)]
        ]
        return {
            "standings": told,
            "wanting": [each for each in told if each.tone in {CAUTION, STOP}],
            "standing_sentence": standing_sentence(told),
            "standing_tone": next((tone for tone in (STOP, CAUTION) if any(each.tone == tone for each in told)), GO),
            "standing_seen": hashlib.sha256(repr(told).encode()).hexdigest()[:_SEEN_CHARS],
        }

    async def _of(self, name: str, scope: Scope) -> Standing:
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        key = (name, scope.organization_id, where, scope.principal.is_platform_operator)
        kept = self._kept.get(key)
        now_s = self.clock.monotonic()
        if kept is not None and now_s - kept[0] < self.config.overview_standing_s:
            return kept[1]
        try:
            standing = await self.watchers[name](scope)
        except InterlockError as error:
            standing = Standing(CAUTION, f"not known right now: {error.code}")
        self._kept[key] = (now_s, standing)
        self._kept.move_to_end(key)
        while len(self._kept) > self.config.overview_tenants_max * len(SCREENS):
            self._kept.popitem(last=False)
        return standing


def standing_sentence(told: Sequence[StandingLine]) -> str:
    """Tell in one sentence whether somebody is needed."""
    now = sum(each.tone == STOP for each in told)
    looks = sum(each.tone == CAUTION for each in told)
    if now:
        beside = f", {count(looks, 'more needs a look', 'more need a look')}" if looks else ""
        return f"{count(now, 'thing needs', 'things need')} somebody now{beside}."
    if looks:
        return f"{count(looks, 'thing needs', 'things need')} a look."
    return "Nothing needs you right now."


def count(many: int, one: str, more: str) -> str:
    """Return a number with its noun."""
    return f"{many:,} {one if many == 1 else more}"
