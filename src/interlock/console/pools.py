"""Pools of engines, live: the seven metrics, queue, engines, shares, what ended last, and one request's way through.

Changes nothing; an operator drains and sets over the API or the command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from interlock.console.addresses import HTML, Sampler, page_at
from interlock.console.frame import Frame
from interlock.console.render import milliseconds
from interlock.console.standing import Standing, count
from interlock.console.views import CAUTION, GO, STOP
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.telemetry import RequestRecord
from interlock.gateway import Stories
from interlock.scheduler import NEWEST, Decisions, PoolRollouts, PoolService

WIDTH: Final = 1000.0
HEIGHT: Final = 100.0
_ENGINE_TONES: Final = {"ready": GO, "starting": CAUTION, "parity": CAUTION, "draining": CAUTION, "down": STOP}
_TRIAL_TONES: Final = {"shadow": CAUTION, "canary": CAUTION, "promoted": GO, "rolled_back": STOP, "failed": STOP}
VERSIONS_SHOWN: Final = 8
TRIAL_SHOWN: Final = 10
_KINDS: Final = {
    "refused": "would have been refused",
    "admitted": "would have been queued",
    "displaced": "would have given way",
    "kept": "would not have given way",
    "code": "refused for another reason",
    "sooner": "granted sooner",
    "later": "granted later",
    "engine": "granted another engine",
}
_LEFT: Final = frozenset({"client_gone", "unused", "canceled"})


class LivePools(Protocol):
    """The figures of the running scheduler."""

    async def view(self, name: str, part: str = "") -> dict[str, Any]:
        """Return a pool, or a part of it. Raises `pool_unknown`, `no_capacity`."""
        ...


@dataclass(frozen=True, slots=True)
class Chart:
    """One metric: the figure now, and its line over the last minutes."""

    name: str
    figure: str
    note: str
    lines: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class PoolPages:
    """Serves the pages of pools."""

    frame: Frame
    stories: Stories
    pools: PoolService
    live: LivePools
    decisions: Decisions
    rollouts: PoolRollouts

    async def show(self, call: Call) -> Reply:
        """Answer the list, for the platform's operator."""
        rows = []
        for name in await self._names(call):
            try:
                rows.append(_row(await self.live.view(name), await self.live.view(name, "metrics")))
            except InterlockError as error:
                rows.append({"name": name, "away": error.message})
        return self.frame.page(call, "scheduler", {"pools": rows})

    async def one(self, call: Call) -> Reply:
        """Answer one pool, for the platform's operator. Raises `pool_unknown`, `no_capacity`."""
        name = await self._known(call)
        view, metrics = await self.live.view(name), await self.live.view(name, "metrics")
        shown = await self.live.view(name, "history")
        async with call.store.ops("versions and candidate of a pool") as tx:
            versions = await self.rollouts.versions(tx, name, NEWEST, VERSIONS_SHOWN)
            tried = await self.rollouts.tried(tx, name)
        trial = None
        if tried is not None:
            gate = await self.rollouts.gate(name, tried["artifact_digest"])
            trial = trial_values(tried, await self.live.view(name, "candidate"), gate)
        values = {**pool_values(view, metrics, shown), "versions": versions, "trial": trial}
        return self.frame.page(call, "pool", values)

    async def fairness(self, call: Call) -> Reply:
        """Answer who asks for how much of a pool and gets it: a reader's own, all of them to the operator."""
        name = await self._known(call)
        view = await self.live.view(name)
        shares = own_shares(view["tenants"], call.within)
        values = {
            "pool": name,
            "water_level": view["water_level"] if call.who.is_platform_operator else None,
            "promises": view["statistics"] if call.who.is_platform_operator else None,
            "tenants": shares,
            "is_operator": call.who.is_platform_operator,
        }
        return self.frame.page(call, "pool_fairness", values)

    async def grant(self, call: Call) -> Reply:
        """Answer one request's way through its pool. Raises `request_not_found`."""
        record = await self.stories.get(call.within, call.params["id"])
        found = None
        if record.organization_id is not None and record.workspace_id is not None:
            found = await self.decisions.one(record.organization_id, record.workspace_id, call.params["id"])
        values: dict[str, Any] = {
            "request_id": call.params["id"],
            "found": found,
            "steps": grant_steps(record),
            "rows": [],
        }
        if found is not None:
            values |= {"tone": _tone(found), "sentence": sentence(found), "rows": told(found)}
        return self.frame.page(call, "grant", values)

    async def standing(self, _scope: Scope) -> Standing:
        """Tell whether every pool has an engine, for the platform's operator."""
        async with self.decisions.store.ops("how pools stand") as tx:
            names = sorted(each.name for each in await self.pools.listed(tx))
        if not names:
            return Standing("", "no pool yet")
        views = [await self.live.view(each) for each in names]
        idle = sum(not each["slots"] for each in views)
        waiting = sum(each["queued"] for each in views)
        if idle:
            return Standing(STOP, f"{idle:,} of {len(views):,} without an engine: its calls are refused")
        return Standing(
            GO, f"{count(len(views), 'serves', 'serve')}; {count(waiting, 'request waits', 'requests wait')}"
        )

    @property
    def samplers(self) -> dict[str, Sampler]:
        """What the list of screens may show."""

        async def pool(_scope: Scope) -> str | None:
            async with self.decisions.store.ops("a pool to look at") as tx:
                return next((each.name for each in await self.pools.listed(tx)), None)

        return {"pool": pool, "pool_fairness": pool, "grant": self.decisions.newest}

    async def _names(self, call: Call) -> list[str]:
        async with call.store.ops("pools") as tx:
            return sorted(each.name for each in await self.pools.listed(tx))

    async def _known(self, call: Call) -> str:
        async with call.store.ops("pools") as tx:
            return (await self.pools.get(tx, call.params["pool"])).name


def pool_pages(pages: PoolPages) -> list[Route]:
    """Return the routes of the pages."""

    def operators(path: str, handler: Callable[..., Any], summary: str, codes: tuple[str, ...] = ()) -> Route:
        return Route("GET", f"/console{path}", Level.PLATFORM, handler, summary, action="admin:read", is_html=True,
                     codes=codes, media_type=HTML)  # fmt: skip

    away = ("pool_unknown", "no_capacity")
    return [
        operators("/scheduler", pages.show, "Pools of engines."),
        operators("/scheduler/{pool}", pages.one, "One pool, live.", away),
        page_at("/scheduler/{pool}/fairness", pages.fairness, "Demand against share.", codes=away),
        page_at("/grants/{id}", pages.grant, "A request's way through its pool.", codes=("request_not_found",)),
    ]


def pool_values(view: dict[str, Any], metrics: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """Return what the page of a pool shows."""
    statistics = view["statistics"]
    return {
        "pool": view,
        "sentence": pool_sentence(view, metrics),
        "tone": STOP if not view["slots"] else CAUTION if statistics["is_draining"] else GO,
        "charts": charts(metrics, shown["history"]),
        "classes": [
            {"name": name, "queued": statistics["queued_by_class"].get(name, 0), **objective}
            for name, objective in view["objectives"].items()
        ],
        "engines": [{**each, "tone": _ENGINE_TONES.get(each["state"], ""), **_kv(each)} for each in view["engines"]],
        "refused": sorted(metrics["overload_rejections"].items()),
        "recent": [{**each, "tone": _recent_tone(each), "missed": _missed(each, view)} for each in shown["recent"]],
    }


def trial_values(tried: dict[str, Any], seen: dict[str, Any], gate: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the page shows of a candidate: as it stands in the store, with what leader and gates say of it."""
    seen = seen if seen["number"] == tried["number"] else {}
    shadow, arms = seen.get("shadow"), seen.get("canary") or tried["verdict"] or {}
    return {
        **tried,
        "tone": _TRIAL_TONES.get(tried["stage"], ""),
        "sentence": _trial_sentence(tried, shadow),
        "gate": gate_sentence(gate),
        "changed": [f"{name} {_plain(old)} to {_plain(new)}" for name, (old, new) in tried["changed"].items()],
        "differences": [] if shadow is None else [(k, _KINDS[k], count) for k, count in shadow["differences"].items()],
        "newest": [] if shadow is None else shadow["newest"][:TRIAL_SHOWN],
        "arms": [{"name": name, **arms[name]} for name in ("live", "candidate") if isinstance(arms.get(name), dict)],
    }


def gate_sentence(gate: dict[str, Any] | None) -> str | None:
    """Return what the required gates of a pool say of its candidate; None where there is none."""
    if gate is None or not gate["required"]:
        return None
    if not gate["admits"]:
        return "Blocked: " + " ".join(str(each["text"]) for each in gate["reasons"])
    return f"Admitted for {gate['first_share_bp'] / 100:g} % of the workspaces until a canary has shown more."


def _trial_sentence(tried: dict[str, Any], shadow: dict[str, Any] | None) -> str:
    if tried["stage"] == "canary":
        return f"It decides for {tried['share_bp'] / 100:g} % of the workspaces."
    if tried["stage"] == "shadow":
        heard = "and has heard nothing yet" if shadow is None else f"and has heard {shadow['requests']:,} requests"
        return f"It decides beside the pool for nobody, {heard}."
    return str((tried["verdict"] or {}).get("reason") or f"It was {tried['stage'].replace('_', ' ')}.")


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def pool_sentence(view: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Tell how a pool is."""
    if not view["slots"]:
        return "No engine is ready: calls are refused until one is."
    kept = metrics["accepted_attainment"]
    words = f"{view['granted']} of {view['slots']} seats are in use and {view['queued']} requests wait"
    if kept is None:
        return f"{words}; nothing ended in the last five minutes."
    return f"{words}; of what it accepted in the last five minutes {kept:.1%} came within its objective."


def charts(metrics: dict[str, Any], spans: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return the seven metrics, each as its figure and its line; a span in which nobody measured is a gap."""

    def chart(name: str, key: str, figure: str, note: str) -> Chart:
        values = [each[key] for each in spans]
        return Chart(name, figure, note, lines(values), f"{name} over the last five minutes; now {figure}, {note}.")

    first, wait = metrics["time_to_first_token_s"], metrics["queue_wait_time_s"]
    whole, tokens = metrics["end_to_end_latency_s"], metrics["tokens_per_second"]
    busy, cost = metrics["gpu_utilization"], metrics["cost_per_successful_request_usd"]
    refused = sum(metrics["overload_rejections"].values())
    errors = "error rate not known yet" if metrics["error_rate"] is None else f"error rate {metrics['error_rate']:.1%}"
    price = "-" if cost is None else f"${cost:.6f}"
    wasted = f"{metrics['wasted_tokens']:,} tokens wasted"
    source = f"by {str(metrics['gpu_utilization_source']).replace('_', ' ')}"
    return [
        chart("Time to first token", "time_to_first_token_s", _s(first["p50"]), f"median; p99 {_s(first['p99'])}"),
        chart(
            "Tokens per second", "tokens_per_second", f"{tokens['output']:,.0f}", f"out; {tokens['prefill']:,.0f} in"
        ),
        chart("Queue wait time", "queue_wait_time_s", _s(wait["p50"]), f"median; p99 {_s(wait['p99'])}"),
        chart("End-to-end latency", "end_to_end_latency_s", _s(whole["p95"]), f"p95; p99 {_s(whole['p99'])}"),
        chart("GPU utilization", "gpu_utilization", "-" if busy is None else f"{busy:.0%}", source),
        chart("Overload rejections", "overload_rejections", f"{refused:,}", errors),
        chart("Cost per successful request", "cost_per_successful_request_usd", price, wasted),
    ]


def lines(values: Sequence[float | None]) -> tuple[str, ...]:
    """Return the points of each unbroken piece of a line, 0 at the bottom and its largest value at the top."""
    top = max((each for each in values if each is not None), default=0.0) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{at * step:.1f},{HEIGHT - 4 - (HEIGHT - 8) * value / top:.1f}")
    # One point alone is drawn as a short dash.
    return tuple(" ".join(each if len(each) > 1 else [each[0], each[0]]) for each in pieces if each)


def own_shares(tenants: Sequence[dict[str, Any]], scope: Scope) -> list[dict[str, Any]]:
    """Return the rows of the tree that a scope may see, with bars of demand and share on one scale."""
    rows = [each for each in tenants if scope.principal.is_platform_operator or _is_own(each["path"], scope)]
    figures = [each[name] or 0.0 for each in rows for name in ("demand_tps", "share_tps")]
    top = max(figures, default=0.0) or 1.0
    shown = []
    for each in rows:
        *_, name = each["path"].split("/")
        demand, share = each["demand_tps"] or 0.0, each["share_tps"]
        shown.append({
            **each, "name": name, "depth": each["path"].count("/"),
            "tone": CAUTION if each["over_share"] else GO,
            "demand_x": round(WIDTH * demand / top, 1),
            "share_x": None if share is None else round(WIDTH * share / top, 1),
        })  # fmt: skip
    return shown


def _is_own(path: str, scope: Scope) -> bool:
    organization, *rest = path.split("/")
    if organization != format_id("org", scope.organization_id):
        return False
    if isinstance(scope.workspace_id, AllWorkspaces):
        return True
    return bool(rest) and rest[0] == format_id("ws", scope.workspace_id)


def sentence(found: dict[str, Any]) -> str:
    """Tell what became of a request in its pool."""
    waited = milliseconds(found["queue_wait_ms"])
    if found["outcome"] == "refused":
        predicted = milliseconds(found["predicted_ttft_ms"])
        return f"Refused by {found['code']}: its first token was predicted after {predicted}."
    if found["outcome"] == "canceled":
        return "Its caller left while it waited; the seat went back at once."
    if found["is_in_slo"]:
        return f"Granted after {waited}, and within its objective."
    return f"Granted after {waited}; it ended as {found['outcome']} and outside its objective."


def told(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was predicted of a request beside what happened."""
    return [
        ("First token", milliseconds(found["predicted_ttft_ms"]), milliseconds(found["ttft_ms"])),
        ("Time per output token", milliseconds(found["predicted_tpot_ms"]), milliseconds(found["tpot_ms"])),
        ("Output tokens", _count(found["predicted_output"]), _count(found["output_tokens"])),
    ]


def grant_steps(record: RequestRecord) -> list[dict[str, str]]:
    """Return the scheduler's own steps of a story."""
    return [
        {"rule": each.rule, "verdict": each.verdict, "detail": each.detail}
        for each in record.decisions
        if each.step in {"grant", "queue"}
    ]


def _row(view: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    ready = [each for each in view["engines"] if each["state"] == "ready"]
    kept = metrics["accepted_attainment"]
    return {
        "name": view["name"],
        "away": None,
        "tone": GO if ready else STOP,
        "state": "draining" if view["statistics"]["is_draining"] else "serving" if ready else "no engine",
        "policy": view["policy"],
        "engines": f"{len(ready)} of {len(view['engines'])}",
        "granted": f"{view['granted']} of {view['slots']}",
        "queued": view["queued"],
        "first": _s(metrics["time_to_first_token_s"]["p50"]),
        "refused": sum(metrics["overload_rejections"].values()),
        "kept": "-" if kept is None else f"{kept:.1%}",
    }


def _kv(engine: dict[str, Any]) -> dict[str, str]:
    tokens = engine["kv_tokens"]
    return {"kv": "-" if not tokens else f"{engine['kv_reserved'] / tokens:.0%} of {tokens:,}"}


def _tone(found: dict[str, Any]) -> str:
    if found["outcome"] in _LEFT:
        return ""
    return GO if found["is_in_slo"] else CAUTION if found["outcome"] == "refused" else STOP


def _recent_tone(each: dict[str, Any]) -> str:
    return _tone({"outcome": each["outcome"], "is_in_slo": each["in_slo"]})


def _missed(each: dict[str, Any], view: dict[str, Any]) -> str | None:
    """Return which objective an answer missed: its first token was late, or those after it were slow."""
    if each["outcome"] != "ok" or each["in_slo"]:
        return None
    objective = view["objectives"].get(each["class"])
    is_late = objective is None or each["ttft_ms"] is None or each["ttft_ms"] > objective["ttft_ms"]
    return "late" if is_late else "slow"


def _s(seconds: float | None) -> str:
    return milliseconds(None if seconds is None else seconds * 1_000)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
