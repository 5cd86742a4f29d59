"""What every page shows around its content: navigation, bars, the reader, the forms' token.

Knows no page; `routes.py` says which there are.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.console.addresses import HTML
from interlock.console.moments import when_at
from interlock.console.render import PAGE_HEADERS, fragment, page
from interlock.console.screens import SCREENS, navigation, open_screen
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, MayOpen, Reply
from interlock.foundation.flags import Kill, KillSwitches, kill_json
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.scope import AllWorkspaces, Principal, PrincipalKind, Scope

_PRINCIPAL_KINDS: Final = {PrincipalKind.USER: "usr", PrincipalKind.SERVICE_ACCOUNT: "sa"}
# Scopes whose targets are names of the platform or names that several organizations use.
_OF_ALL: Final = frozenset({"gateway", "route", "deployment", "provider", "beta", "pool", "engine", "class"})
_BARS_MAX: Final = 3
_SEEN_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class KillBar:
    """One red bar."""

    scope: str
    target: str
    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Builds whole pages. `degraded` names what is away right now; `csv_rows_max` bounds every export of a list."""

    kills: KillSwitches
    clock: Clock
    csv_rows_max: int
    degraded: Callable[[], Sequence[str]] = tuple

    def page(
        self, call: Call, here: str, values: dict[str, Any], status: int = 200, *, template: str | None = None
    ) -> Reply:
        """Render the screen `here` for the caller, by its own template unless another is named."""
        title = next(screen.title for screen in SCREENS if screen.id == here)
        around = self.around(call.principal, call.csrf_token, call.may_open)
        return page(
            template or f"{here}.html",
            {"title": title, "here": here, "open": open_screen(here), **around, **values},
            status,
        )

    async def bars(self, call: Call) -> Reply:
        """Answer the bars alone as they stand now, for a page that is open already; it keeps those that it has seen."""
        values = self.around(call.principal, call.csrf_token, call.may_open)
        is_news = call.query.get("seen") != values["bars_seen"]
        headers = PAGE_HEADERS if is_news else {**PAGE_HEADERS, "hx-reswap": "none"}
        return Reply(
            content=fragment("bars.html", values).encode(), media_type=f"{HTML}; charset=utf-8", headers=headers
        )

    def around(self, principal: Principal | None, csrf: str, may_open: MayOpen) -> dict[str, Any]:
        """Return what the frame shows to this reader."""
        visible = [] if principal is None else visible_kills(self.kills.kills, principal)
        bars, left_out = [_bar(kill) for kill in visible[:_BARS_MAX]], max(0, len(visible) - _BARS_MAX)
        degraded = list(self.degraded())
        seen = hashlib.sha256(repr((bars, left_out, degraded)).encode()).hexdigest()
        return {
            "navigation": navigation(may_open),
            "kills": bars,
            "kills_left_out": left_out,
            "degraded": degraded,
            "bars_seen": seen[:_SEEN_CHARS],
            "csrf": csrf,
            "when": when_at(self.clock.now_us()),
            "who": "nobody" if principal is None else name_of(principal),
        }


def visible_kills(kills: Sequence[Kill], principal: Principal) -> list[Kill]:
    """Return what stops everybody and what was stopped in the reader's own organization; to the operator, all.

    What the platform's operator stops by a name is stopped for everybody who uses the name.
    """
    if principal.is_platform_operator:
        return list(kills)
    own = principal.organization_id
    return [
        kill
        for kill in kills
        if kill.organization_id == own
        or kill.target == str(own)
        or (kill.organization_id == SYSTEM_ORGANIZATION_ID and (kill.scope in _OF_ALL or kill.target == "*"))
    ]


def name_of(principal: Principal) -> str:
    """Return the id under which the API knows the reader."""
    kind = _PRINCIPAL_KINDS.get(principal.kind)
    return "system" if kind is None else format_id(kind, principal.id)


def place_of(scope: Scope) -> str:
    """Tell in words what a scope covers."""
    if isinstance(scope.workspace_id, AllWorkspaces):
        return "all workspaces"
    return f"workspace {format_id('ws', scope.workspace_id)}"


def _bar(kill: Kill) -> KillBar:
    target = str(kill_json(kill)["target"])
    return KillBar(kill.scope, "" if target == "*" else target, kill.mode, kill.reason)
