"""What a pool's last hour would have been at another load or with other engines: a form, and figures side by side.

Changes nothing, and simulates nothing before somebody asks.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interlock.console.addresses import HTML, as_type
from interlock.console.frame import Frame
from interlock.console.pools import LivePools
from interlock.console.render import milliseconds
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.scheduler import (
    LOADS,
    REPLICAS_MAX,
    Asked,
    Fleet,
    Hour,
    PoolRow,
    PoolService,
    WhatIf,
    as_it_was,
    fleet_of,
    options,
)

_WIDTH: Final = 1000.0
_DIGITS_MAX: Final = 4
# A simulation that is further from what it began with than the product promises of it is said to be.
_APART_MAX: Final = 0.10
_TOLD: Final = frozenset({"what_if_busy", "deadline_exceeded"})


@dataclass(frozen=True, slots=True)
class CapacityPages:
    """Serves the page of one pool, and the trace that its figures are of."""

    frame: Frame
    pools: PoolService
    live: LivePools
    what_if: WhatIf

    async def show(self, call: Call) -> Reply:
        """Answer the form, and what was asked where something was. Raises `pool_unknown`, `no_capacity`."""
        pool = await self._known(call)
        name, hour = pool.name, await self.what_if.hour(pool.name)
        fleet = fleet_of(await self.live.view(name), pool.share_level, () if hour is None else hour.rows)
        values = form_values(name, hour, fleet, call.query)
        if hour is None or fleet is None or "load" not in call.query:
            return self.frame.page(call, "pool_capacity", values)
        now, asked = Asked(1.0, fleet.replicas), asked_of(call.query)
        try:
            simulated = [(each, await self.what_if.simulate(hour, fleet, each)) for each in (now, asked)]
        except InterlockError as error:
            if error.code not in _TOLD:
                raise
            return self.frame.page(call, "pool_capacity", {**values, "no": error.message}, error.http_status)
        was = as_it_was(hour.rows)
        rows = [
            row("as it was", now, was),
            row("simulated as it was", *simulated[0]),
            row("simulated as asked", *simulated[1]),
        ]
        command = shlex.join(["interlock", "scheduler", "replay", f"{name}.csv", *options(fleet, hour.rate_rps, asked)])
        shown = {**values, "rows": rows, "command": command, "apart": apart(was, simulated[0][1])}
        return self.frame.page(call, "pool_capacity", shown)

    async def trace(self, call: Call) -> Reply:
        """Answer the last hour as a trace for `scheduler replay`. Raises `pool_unknown`."""
        name = (await self._known(call)).name
        hour = await self.what_if.hour(name)
        headers = {"content-disposition": f'attachment; filename="{name}.csv"', "cache-control": "no-store"}
        content = Hour((), 0.0, is_cut=False).trace if hour is None else hour.trace
        return Reply(content=content.encode(), media_type="text/csv; charset=utf-8", headers=headers)

    async def _known(self, call: Call) -> PoolRow:
        async with call.store.ops("pools") as tx:
            return await self.pools.get(tx, call.params["pool"])


def apart(was: Mapping[str, Any], simulated: Mapping[str, Any]) -> str:
    """Return how far the simulation is from the hour it began with, and what that makes of it as a forecast."""
    error = simulated["attainment"] - was["attainment"]
    side = "above" if error > 0 else "below"
    told = f"The simulation of the hour as it was is {abs(error) * 100:.1f} points {side} what it was"
    if abs(error) <= _APART_MAX:
        return f"{told}; what was asked may be as far off."
    return f"{told}, so compare the two simulated lines with each other and take neither as a forecast."


def capacity_pages(pages: CapacityPages) -> list[Route]:
    """Return the routes of the pages."""

    def operators(path: str, handler: Any, summary: str, *codes: str) -> Route:
        return Route("GET", f"/console/scheduler/{{pool}}/{path}", Level.PLATFORM, handler, summary,
                     action="admin:read", is_html=True, codes=("pool_unknown", *codes), media_type=HTML,
                     query=("load", "replicas"))  # fmt: skip

    found = ("no_capacity", "invalid_request", *sorted(_TOLD))
    return [
        operators("capacity", pages.show, "What another load, or other engines, would make of the last hour.", *found),
        as_type(operators("capacity.csv", pages.trace, "The last hour as a trace."), "text/csv"),
    ]


def asked_of(query: Mapping[str, str]) -> Asked:
    """Return what the form asked for. Raises `invalid_request`."""
    low, high = LOADS
    try:
        load = float(query.get("load", ""))
    except ValueError:
        load = 0.0
    if not low <= load <= high:
        raise InterlockError("invalid_request", f"`load` is {low:g} to {high:g}.", detail={"field": "load"})
    replicas = query.get("replicas", "")
    if not replicas.isdecimal() or len(replicas) > _DIGITS_MAX or not 1 <= int(replicas) <= REPLICAS_MAX:
        raise InterlockError("invalid_request", f"`replicas` is 1 to {REPLICAS_MAX}.", detail={"field": "replicas"})
    return Asked(load, int(replicas))


def form_values(name: str, hour: Hour | None, fleet: Fleet | None, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page shows around the figures."""
    replicas = 1 if fleet is None else min(fleet.replicas, REPLICAS_MAX)
    asked = asked_of(query) if "load" in query else Asked(1.0, replicas)
    return {
        "pool": name,
        "hour": hour,
        "fleet": fleet,
        "load": f"{asked.load:g}",
        "replicas": asked.replicas,
        "load_min": f"{LOADS[0]:g}",
        "load_max": f"{LOADS[1]:g}",
        "replicas_max": min(REPLICAS_MAX, max(8, 2 * replicas, asked.replicas)),
        "sentence": _sentence(hour, fleet),
        "rows": [],
        "no": None,
    }


def row(name: str, asked: Asked, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return one line of the table, with its bar: what came within its objective, then what was refused."""
    kept, refused = figures["attainment"], figures["refused"]
    return {
        "name": name,
        "load": f"{asked.load:g} x",
        "replicas": asked.replicas,
        "kept": f"{kept:.1%}",
        "refused": f"{refused:.1%}",
        "p50": milliseconds(figures["p50"]),
        "p99": milliseconds(figures["p99"]),
        "kept_x": round(_WIDTH * kept, 1),
        "refused_x": round(_WIDTH * refused, 1),
        "words": f"{kept:.1%} within the objective, {refused:.1%} refused",
    }


def _sentence(hour: Hour | None, fleet: Fleet | None) -> str:
    if fleet is None:
        return "The pool has no engine."
    if hour is None:
        return "Too little came in the last hour to simulate it."
    came = f"{len(hour.rows):,} requests came at {hour.rate_rps:.3g} a second"
    span = f"The last {len(hour.rows):,} requests of the hour are looked at: {came}" if hour.is_cut else (
        f"In the last hour {came}"
    )  # fmt: skip
    engines = "engine" if fleet.replicas == 1 else "engines"
    how = f"simulated as {fleet.profile}, as fast as they were seen to write and to read"
    return f"{span}. The pool has {fleet.replicas} {engines}, {how}."
