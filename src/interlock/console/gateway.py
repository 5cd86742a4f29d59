"""The front door in the console: routes with their arms, limits with their fill, usage and cost, kill switches.

Changes switches; limits and weights are changed by `gateway_forms.py`, all else over the API or the command line.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from interlock.console.addresses import HTML, Sampler, as_type, page_at
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, place_of, visible_kills
from interlock.console.render import exact
from interlock.console.standing import Standing, count
from interlock.console.views import CAUTION, GO, STOP
from interlock.contracts.rollouts import WeightMode
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import Kill, KillService, kill_json
from interlock.foundation.identity import KeyService, authorize
from interlock.foundation.ids import MalformedIdError, parse_id
from interlock.foundation.scope import Scope
from interlock.gateway import (
    Dimension,
    GroupBy,
    LimitMode,
    LimitScope,
    LimitsService,
    RouteService,
    Span,
    UpstreamService,
    UsageQuery,
    UsageService,
)

_STATES: Final = {"stable": GO, "canary": CAUTION, "shadow": CAUTION, "retired": "", "draft": ""}
_SPANS: Final = {"1 hour": (1, Span.MINUTE), "1 day": (24, Span.HOUR), "7 days": (168, Span.DAY),
                 "30 days": (720, Span.DAY)}  # fmt: skip
_GROUPS: Final = {GroupBy.MODEL: "model", GroupBy.KEY: "key_id", GroupBy.WORKSPACE: "workspace_id", GroupBy.TAG: "tag"}
_FIGURES: Final = ("requests", "unpriced", "input_tokens", "cached_input_tokens", "output_tokens")
_ROWS_MAX: Final = 5_000
_DEPLOYMENTS_MAX: Final = 200
_LIMITS_MAX: Final = 500
_KEYS_MAX: Final = 200
_EXPLAINED: Final = (
    "id", "scope", "dimension", "model", "limit", "burst", "used", "state", "mode", "retry_at", "refused_24h",
)  # fmt: skip
LIMIT_COLUMNS: Final = ("id", "scope", "target", *_EXPLAINED[2:])
# From this share of a bucket on, and from an empty one on, a limit is marked.
_NEARLY: Final = 0.8
KILL_SCOPES: Final = ("route", "deployment", "provider", "key", "workspace", "organization", "beta", "gateway")
KILL_MODES: Final = {
    "reject": "refuse new requests",
    "drain": "also refuse what waits or would be tried again",
    "abort": "also end what runs",
}
_REASON_CHARS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class GatewayPages:
    """Serves the pages of the front door."""

    frame: Frame
    routes: RouteService
    upstreams: UpstreamService
    limits: LimitsService
    usage: UsageService
    kills: KillService
    clock: Clock
    keys: KeyService

    async def show_routes(self, call: Call) -> Reply:
        """Answer the routes, and the deployments that they may name. Raises `invalid_cursor`."""
        page = call.page
        after = str(page.after[0]) if page.after else ""
        found = await self.routes.page(call.within, None, after, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each["alias"],))
        cursor = call.listed([], position).body["next_cursor"]
        values = {
            "place": place_of(call.within),
            "routes": [told_route(each) for each in kept],
            "deployments": await self.upstreams.deployments(call.within, None, "", _DEPLOYMENTS_MAX),
            "next_url": None if cursor is None else f"/console/routes?cursor={cursor}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "routes", values)

    async def show_route(self, call: Call) -> Reply:
        """Answer one route with its versions. Raises `not_found`."""
        route = told_route(await self.routes.get(call.within, call.params["alias"]))
        values = {"route": route, "may_write": _may(call, "admin:write"), "weight_modes": list(WeightMode)}
        return self.frame.page(call, "route", values)

    async def show_limits(self, call: Call) -> Reply:
        """Answer the limits of the organization, each with what is used of it."""
        values = {
            "place": place_of(call.within),
            "scopes": [each for each in LimitScope if each is not LimitScope.TIER],
            "dimensions": list(Dimension),
            "modes": list(LimitMode),
            **await self._rows(call),
            **await self._explained(call),
        }
        return self.frame.page(call, "limits", values)

    async def export_limits(self, call: Call) -> Reply:
        """Answer the limits of the organization as CSV, each with what is used of it."""
        read = partial(self.limits.filled, call.within)
        rows = await all_rows(read, UUID(int=0), lambda each: parse_id("limit", each["id"]), self.frame.csv_rows_max)
        return csv_of("limits.csv", LIMIT_COLUMNS, map(told_limit, rows))

    async def export_explained(self, call: Call) -> Reply:
        """Answer the limits of a key and a model as CSV. Raises `not_found`, `invalid_request`."""
        rows = (await self._explained(call))["explained"]
        if rows is None:
            raise InterlockError("invalid_request", "Name a key and a model.", detail={"field": "key"})
        return csv_of("limits-of-a-key.csv", _EXPLAINED, rows)

    async def fill(self, call: Call) -> Reply:
        """Answer the rows of the limits alone, as they stand now."""
        return self.frame.page(call, "limits", await self._rows(call), template="limit_rows.html")

    async def show_usage(self, call: Call) -> Reply:
        """Answer usage and cost of a span. Raises `invalid_request`."""
        within, asked, rows = await self._used(call)
        group_by = asked.group_by
        since = rfc3339(round(asked.start.timestamp() * 1_000_000))
        values = {
            "place": place_of(call.within),
            "groups": list(GroupBy),
            "spans": list(_SPANS),
            "group_by": group_by,
            "within": within,
            "totals": totals(rows, _GROUPS[group_by]),
            "whole": totals(rows, None)[0] if rows else None,
            "is_cut": len(rows) == _ROWS_MAX,
            "json_url": f"/v1/usage?{urlencode({'group_by': group_by, 'bucket': asked.span, 'from': since})}",
            "csv_url": f"/console/usage.csv?{urlencode({'group_by': group_by, 'within': within})}",
        }
        return self.frame.page(call, "usage", values)

    async def export_usage(self, call: Call) -> Reply:
        """Answer the rows of the page as CSV. Raises `invalid_request`."""
        _, asked, rows = await self._used(call)
        columns = (str(asked.group_by), *_FIGURES, "cost_usd")
        told = [{**each, columns[0]: each["group"]} for each in totals(rows, _GROUPS[asked.group_by])]
        return csv_of("usage.csv", columns, told)

    async def show_kills(self, call: Call) -> Reply:
        """Answer the switches that are on, and the form that turns one on."""
        return self._kills_page(call, await self.kills.listed(call.within, None, _LIMITS_MAX))

    async def turn_on(self, call: Call) -> Reply:
        """Turn a switch on, and show who knows of it. Raises `invalid_request`, `not_found`, `role_denied`."""
        form = call.form
        if not form.get("is_meant"):
            raise InterlockError("invalid_request", "A switch is turned on in two steps: say that you mean it.")
        wanted = Kill(
            id="",
            organization_id=call.within.organization_id,
            scope=form.get("scope", ""),
            target=form.get("target", "").strip() or "*",
            mode=form.get("mode", ""),
            reason=form.get("reason", "")[:_REASON_CHARS_MAX],
            actor="",
            created_us=0,
        )
        kill, told = await self.kills.turn_on(call.within, wanted)
        said = f"{kill.scope} {kill_json(kill)['target']} is stopped."
        return self._kills_page(
            call, await self.kills.listed(call.within, None, _LIMITS_MAX), said=said, propagation=told, status=201
        )

    async def lift(self, call: Call) -> Reply:
        """Lift a switch, and show who knows of it. Raises `not_found`, `role_denied`."""
        try:
            kill_id = parse_id("kill", call.params["id"])
        except MalformedIdError as error:
            raise InterlockError("not_found") from error
        kill, told = await self.kills.lift(call.within, kill_id, call.form.get("reason", "")[:_REASON_CHARS_MAX])
        said = f"{kill.scope} {kill_json(kill)['target']} is served again."
        return self._kills_page(
            call, await self.kills.listed(call.within, None, _LIMITS_MAX), said=said, propagation=told
        )

    async def limits_standing(self, scope: Scope) -> Standing:
        """Tell which limits are full."""
        states = Counter(
            told_limit(each)["state"] for each in await self.limits.filled(scope, UUID(int=0), _LIMITS_MAX)
        )
        if not states:
            return Standing("", "none is set")
        if states["full"] or states["nearly full"]:
            said = [f"{states[each]:,} {each}" for each in ("full", "nearly full") if states[each]]
            return Standing(CAUTION, f"{' and '.join(said)} of {states.total():,}")
        return Standing(GO, f"{states.total():,} set, none is full")

    async def kills_standing(self, scope: Scope) -> Standing:
        """Tell what is stopped, as the bars do."""
        stopped = visible_kills(self.frame.kills.kills, scope.principal)
        if not stopped:
            return Standing(GO, "none is on")
        return Standing(
            STOP, f"{count(len(stopped), 'is', 'are')} on: {', '.join(sorted({each.scope for each in stopped}))}"
        )

    @property
    def sampler(self) -> Sampler:
        """What the list of screens may show: the first route of a scope."""

        async def first(scope: Scope) -> str | None:
            found = await self.routes.page(scope, None, "", 1)
            return str(found[0]["alias"]) if found else None

        return first

    async def _used(self, call: Call) -> tuple[str, UsageQuery, list[dict[str, Any]]]:
        within = call.query.get("within") or "1 day"
        group_by = call.query.get("group_by") or GroupBy.MODEL
        if within not in _SPANS or group_by not in set(GroupBy):
            raise InterlockError("invalid_request", "There is no such span or grouping.", detail={"field": "within"})
        hours, span = _SPANS[within]
        now = datetime.fromtimestamp(self.clock.now_us() / 1_000_000, tz=UTC)
        asked = self.usage.query(GroupBy(group_by), span, now - timedelta(hours=hours), None)
        return within, asked, [row for _, row in await self.usage.page(call.within, asked, _ROWS_MAX)]

    async def _rows(self, call: Call) -> dict[str, Any]:
        found = await self.limits.filled(call.within, UUID(int=0), _LIMITS_MAX)
        return {"limits": [told_limit(each) for each in found], "may_write": _may(call, "admin:write")}

    async def _explained(self, call: Call) -> dict[str, Any]:
        """Return what holds for the key and the model that the address names, and what may be named."""
        key, model = (call.query.get(name, "").strip() for name in ("key", "model"))
        rows = None
        if key and model:
            rows = [told_limit(each) for each in await self.limits.explain(call.within, key, model)]
        named = urlencode({"key": key, "model": model})
        return {
            "asked": {"key": key, "model": model},
            "keys": await self.keys.listed(call.within, UUID(int=0), _KEYS_MAX),
            "aliases": await self.routes.aliases(call.within, ("*",)),
            "explained": rows,
            "sentence": None if rows is None else explain_sentence(rows, model),
            "explain_json_url": f"/admin/v1/limits/explain?{named}",
            "explain_csv_url": f"/console/limits/explain.csv?{named}",
        }

    def _kills_page(
        self, call: Call, found: list[Kill], *, said: str = "", propagation: Any = None, status: int = 200
    ) -> Reply:
        # Those of files are in no list of the store; this machine knows them, as its edges do.
        of_files = [each for each in visible_kills(self.frame.kills.kills, call.who) if each.is_local]
        values = {
            "switches": [{**kill_json(each), "is_local": each.is_local} for each in (*found, *of_files)],
            "scopes": KILL_SCOPES,
            "modes": KILL_MODES,
            "may_write": _may(call, "kill:write"),
            "said": said,
            "propagation": propagation,
        }
        return self.frame.page(call, "kills", values, status)


def gateway_pages(pages: GatewayPages) -> list[Route]:
    """Return the routes of the pages."""
    level = Level.ORGANIZATION
    return [
        page_at("/routes", pages.show_routes, "Routes, and deployments.", ("cursor",), action="admin:read",
                codes=("invalid_cursor",)),
        page_at("/routes/{alias}", pages.show_route, "One route with its versions.", action="admin:read"),
        page_at("/limits", pages.show_limits, "Limits, and what is used of them; what holds for a key and a model.",
                ("key", "model"), action="admin:read"),
        as_type(page_at("/limits.csv", pages.export_limits, "The limits as CSV, with what is used of them.",
                        action="admin:read"), "text/csv"),
        as_type(page_at("/limits/explain.csv", pages.export_explained, "What holds for a key and a model, as CSV.",
                        ("key", "model"), action="admin:read"), "text/csv"),
        page_at("/limits/fill", pages.fill, "What is used of the limits, now.", action="admin:read"),
        page_at("/usage", pages.show_usage, "Usage and cost.", ("group_by", "within", "workspace_id")),
        as_type(page_at("/usage.csv", pages.export_usage, "Usage and cost as CSV.",
                        ("group_by", "within", "workspace_id")), "text/csv"),
        page_at("/kills", pages.show_kills, "Kill switches that are on.", action="admin:read"),
        Route("POST", "/console/kills", level, pages.turn_on, "Turn a kill switch on.", action="kill:write",
              is_html=True, status=201, body_bytes_max=65_536, media_type=HTML),
        Route("POST", "/console/kills/{id}/lift", level, pages.lift, "Lift a kill switch.", action="kill:write",
              is_html=True, body_bytes_max=65_536, media_type=HTML),
    ]  # fmt: skip


def _may(call: Call, action: str) -> bool:
    return isinstance(authorize(call.who, action, Level.ORGANIZATION), Scope)


def told_route(route: dict[str, Any]) -> dict[str, Any]:
    """Return a route with the words and signals of its versions."""
    versions = [{**each, "tone": _STATES.get(each["state"], "")} for each in route["versions"]]
    serving = next((each for each in versions if each["version"] == route["stable_version"]), None)
    is_tried = route["candidate_version"] is not None and route["effective_weight"] > 0
    arms = f"{route['effective_weight']:g} % to version {route['candidate_version']}" if is_tried else "-"
    return {**route, "versions": versions, "serving": serving, "arms": arms}


def told_limit(limit: dict[str, Any]) -> dict[str, Any]:
    """Return a limit with its fill as a share, and in words."""
    share = min(1.0, max(0.0, limit["used"] / limit["burst"])) if limit["burst"] else 1.0
    tone = STOP if limit["retry_at"] else (CAUTION if share >= _NEARLY else GO)
    state = "full" if limit["retry_at"] else ("nearly full" if share >= _NEARLY else "free")
    words = {f"{name}_words": _figure(limit[name], limit["dimension"]) for name in ("limit", "burst", "used")}
    return {**limit, **words, "percent": round(share * 100), "tone": tone, "state": state}


def explain_sentence(rows: Sequence[Mapping[str, Any]], model: str) -> str:
    """Tell whether a call of a key would pass right now, by its limits alone."""
    if not rows:
        return f"No limit holds for this key and {model}."
    full = [each for each in rows if each["retry_at"] and each["mode"] == LimitMode.ENFORCE]
    if not full:
        limits = "one limit that holds" if len(rows) == 1 else f"{len(rows)} limits that hold"
        return f"A call of {model} passes the {limits} for this key."
    opens = max(each["retry_at"] for each in full)
    names = ", ".join(f"{each['dimension'].replace('_', ' ')} of the {each['scope']}" for each in full)
    return f"A call of {model} is refused until {exact(opens)}: {names}."


def _figure(value: float, dimension: str) -> str:
    """Return a whole number with its thousands apart, or dollars to the millionth."""
    if not dimension.startswith("usd"):
        return f"{value:,.0f}"
    whole, _, part = f"{value:,.6f}".partition(".")
    return f"$ {whole}.{part.rstrip('0').ljust(2, '0')}"


def totals(rows: list[dict[str, Any]], field: str | None) -> list[dict[str, Any]]:
    """Return the rows added up by a field, all of them where none is named, the dearest first."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        group = str(row[field]) if field is not None else ""
        into = found.setdefault(group, {"group": group, **dict.fromkeys(_FIGURES, 0), "cost_usd": Decimal(0)})
        for name in _FIGURES:
            into[name] += row[name]
        into["cost_usd"] += Decimal(row["cost_usd"])
    return sorted(found.values(), key=lambda each: (-each["cost_usd"], -each["requests"]))
