"""Rollouts: the list, and one with its evidence as curves, its weight as steps and its looks.

Moves nothing; a rollout is moved over the API or the command line. A green lamp is only what was proved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.console.addresses import Sampler, page_at
from interlock.console.frame import Frame, place_of
from interlock.console.standing import Standing
from interlock.console.views import CAUTION, GO, STOP
from interlock.evals.public import Rollouts
from interlock.foundation.control.route import Call, Reply, Route
from interlock.foundation.ids import parse_id
from interlock.foundation.scope import Scope

WIDTH: Final = 1_000.0
HEIGHT: Final = 100.0
# Decades of the logarithmic axis of e-values.
_LOW: Final = -2.0
_HIGH: Final = 4.0
PROMOTE_AT: Final = 20.0
_LOOKS_SHOWN: Final = 240
_ROWS_SHOWN: Final = 40
STANDING_ROWS: Final = 50
_TONES: Final = {
    "promoted": GO,
    "rolled_back": STOP,
    "killed": STOP,
    "shadow": CAUTION,
    "canary": CAUTION,
    "paused": CAUTION,
}
_DECISIONS: Final = {"PROMOTE": GO, "ROLLBACK": STOP, "HOLD": CAUTION}


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the looks: points of its e-values, in the coordinates of the drawing, and in words."""

    metric: str
    rollback: str
    promote: str
    rollback_at: float
    promote_at: float
    words: str


@dataclass(frozen=True, slots=True)
class RolloutPages:
    """Serves the pages of rollouts."""

    frame: Frame
    rollouts: Rollouts

    async def show(self, call: Call) -> Reply:
        """Answer the list. Raises `invalid_cursor`."""
        page = call.page
        before = parse_id("rol", str(page.after[0])) if page.after else None
        found = await self.rollouts.page(call.within, None, before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each["id"],))
        cursor = call.listed([], position).body["next_cursor"]
        values = {
            "place": place_of(call.within),
            "rollouts": [{**each, "tone": tone_of(each["state"])} for each in kept],
            "next_url": None if cursor is None else f"/console/rollouts?cursor={cursor}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "rollouts", values)

    async def one(self, call: Call) -> Reply:
        """Answer one rollout. Raises `not_found`."""
        rollout = await self.rollouts.get(call.within, call.params["id"])
        looks = await self.rollouts.looks(call.within, rollout["id"], None, _LOOKS_SHOWN)
        oldest_first = looks[::-1]
        values = {
            "rollout": rollout,
            "tone": tone_of(rollout["state"]),
            "sentence": sentence(rollout),
            "curves": [curve(name, oldest_first) for name in sorted(rollout["monitor"])],
            "steps": steps([each["weight"] for each in oldest_first]),
            "steps_words": f"The weight over {len(looks)} looks, now {rollout['weight']:g} percent.",
            "looks": [{**each, "tone": _DECISIONS.get(each["decision"], "")} for each in looks[:_ROWS_SHOWN]],
            "is_open": rollout["state"] in {"shadow", "canary", "paused"},
        }
        return self.frame.page(call, "rollout", values)

    async def standing(self, scope: Scope) -> Standing:
        """Tell what is on its way to stable."""
        states = {
            state: len(await self.rollouts.page(scope, state, None, STANDING_ROWS))
            for state in ("canary", "shadow", "paused")
        }
        said = [
            f"{many:,} in {state}" if state != "paused" else f"{many:,} paused"
            for state, many in states.items()
            if many
        ]
        if not said:
            return Standing("", "none is on its way")
        return Standing(CAUTION if states["paused"] else GO, ", ".join(said))

    @property
    def sampler(self) -> Sampler:
        """What the list of screens may show: the newest rollout of a scope."""

        async def newest(scope: Scope) -> str | None:
            found = await self.rollouts.page(scope, None, None, 1)
            return str(found[0]["id"]) if found else None

        return newest


def rollout_pages(pages: RolloutPages) -> list[Route]:
    """Return the routes of the pages."""
    return [
        page_at("/rollouts", pages.show, "Rollouts, newest first.", ("cursor",), action="evals:read",
                codes=("invalid_cursor",)),
        page_at("/rollouts/{id}", pages.one, "One rollout with its evidence.", action="evals:read"),
    ]  # fmt: skip


def tone_of(state: str) -> str:
    """Return the signal of a state."""
    return _TONES.get(state, "")


def sentence(rollout: dict[str, Any]) -> str:
    """Tell where a rollout stands."""
    what = f"{rollout['route']}@{rollout['to_version']}"
    said = {
        "draft": f"{what} is a draft; nobody gets it yet.",
        "shadow": f"{what} sees copies of {rollout['weight']:g} % of the requests and answers nobody.",
        "canary": f"{what} answers {rollout['weight']:g} % of the sticky units, stage {rollout['stage'] + 1} of "
        f"{len(rollout['stages'])}.",
        "paused": f"{what} is kept at {rollout['weight']:g} %; the monitor goes on looking.",
        "promoted": f"{what} is stable: it answers everybody.",
        "rolled_back": f"{what} was rolled back; version {rollout['from_version']} answers everybody.",
        "killed": f"{what} was killed; two people bring it back.",
    }
    first = rollout["reasons"][0]["text"] if rollout["reasons"] else ""
    return f"{said.get(rollout['state'], what)} {first}".strip()


def curve(metric: str, looks: Sequence[dict[str, Any]]) -> Curve:
    """Return the e-values of a metric as points; a look without a reading leaves a gap out."""
    readings = [(at, each["monitor"][metric]) for at, each in enumerate(looks) if metric in each["monitor"]]
    last = readings[-1][1] if readings else {"e_rollback": 1.0, "e_promote": 1.0, "threshold": PROMOTE_AT}
    words = (
        f"{metric}: e-value to roll back {last['e_rollback']:.3g} of {last['threshold']:g}, "
        f"to promote {last['e_promote']:.3g} of {PROMOTE_AT:g}."
    )
    count = len(looks)
    return Curve(
        metric,
        points([(at, each["e_rollback"]) for at, each in readings], count),
        points([(at, each["e_promote"]) for at, each in readings], count),
        height_of(float(last["threshold"])),
        height_of(PROMOTE_AT),
        words,
    )


def points(values: Sequence[tuple[int, float]], count: int) -> str:
    """Return the points of a line over `count` looks."""
    step = WIDTH / max(1, count - 1)
    return " ".join(f"{at * step:.1f},{height_of(value):.1f}" for at, value in values)


def height_of(value: float) -> float:
    """Return where an e-value stands on the logarithmic axis, from the top; beyond it lies on its edge."""
    decade = math.log10(value) if value > 0 else _LOW
    return HEIGHT * (_HIGH - min(max(decade, _LOW), _HIGH)) / (_HIGH - _LOW)


def steps(weights: Sequence[float]) -> str:
    """Return the weight over the looks as the corners of steps, 100 percent at the top."""
    width = WIDTH / max(1, len(weights))
    corners = [
        f"{x:.1f},{HEIGHT - weight * HEIGHT / 100:.1f}"
        for at, weight in enumerate(weights)
        for x in (at * width, (at + 1) * width)
    ]
    return " ".join(corners)
