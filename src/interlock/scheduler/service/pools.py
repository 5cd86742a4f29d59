"""Pools and engines as an operator declares them: added, changed, drained, taken out, each with its audit row.

Decides nothing about requests; the scheduler hears of a change over the feed and reads all anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import ServiceClass
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import FlagBook, bump
from interlock.foundation.flags.service import actor_name
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.store import Store, Transaction
from interlock.scheduler import store as rows
from interlock.scheduler.domain.classes import ACCELERATOR_OBJECTIVES
from interlock.scheduler.domain.engines import Dialect, EngineReport, Readiness
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.replay import POLICIES
from interlock.scheduler.domain.types import ClassObjective
from interlock.scheduler.domain.versions import PoolSettings, changed, settable, with_setting
from interlock.scheduler.service.specs import EngineSpec, Flags, PoolSpec, engine_id

TOPIC: Final = "pools"
SCOPES: Final = {"organization": "org", "workspace": "ws", "key": "key"}
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SLOTS: Final = 16
_CONTEXT_TOKENS: Final = 8_192
_FLAGS: Final = {
    "predicts": "scheduler.predictive_admission",
    "displaces": "scheduler.displacement",
    "routes_by_prefix": "scheduler.prefix_routing",
}


@dataclass(frozen=True, slots=True)
class EngineWanted:
    """An engine as it was asked for, with what its own pages told."""

    url: str
    adapter: str
    model: str
    slots: int
    context_tokens: int
    kv_tokens: int | None
    prefill_tps: int | None
    tpot_ms: float | None
    price_usd_hour: float


def engine_wanted(report: EngineReport, model: str) -> EngineWanted:
    """Return an engine as its own pages tell of it; of one that is silent nothing but its address is known."""
    return EngineWanted(
        url=report.url.rstrip("/"),
        adapter=(Dialect.OPENAI if report.readiness is Readiness.DOWN else report.dialect).value,
        model=model,
        slots=report.slots or _SLOTS,
        context_tokens=report.context_tokens or _CONTEXT_TOKENS,
        kv_tokens=report.gauges.kv_tokens,
        prefill_tps=None,
        tpot_ms=None,
        price_usd_hour=0.0,
    )


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A declared pool; settings change under its version."""

    name: str
    policy: str
    share_level: float
    objectives: dict[ServiceClass, ClassObjective]
    is_draining: bool
    version: int
    engines: tuple[Mapping[str, Any], ...]

    @property
    def settings(self) -> PoolSettings:
        """What makes a version."""
        return PoolSettings(self.policy, self.share_level, self.objectives)

    def engine(self, engine: str) -> Mapping[str, Any]:
        """Return an engine as it was declared. Raises `not_found`."""
        found = next((each for each in self.engines if each["engine_id"] == engine), None)
        if found is None:
            raise InterlockError("not_found")
        return found


class PoolService:
    """Use cases of `/admin/v1/pools`."""

    def __init__(self, audit: AuditLog, clock: Clock, ids: IdFactory) -> None:
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def listed(self, tx: Transaction) -> list[PoolRow]:
        """Return all pools by name."""
        pools, engines, _ = await rows.read_pools(tx)
        return [_pool_of(each, engines) for each in pools]

    async def get(self, tx: Transaction, name: str) -> PoolRow:
        """Return a pool. Raises `pool_unknown`."""
        found = next((each for each in await self.listed(tx) if each.name == name), None)
        if found is None:
            raise InterlockError("pool_unknown", detail={"pool": name[:64]})
        return found

    async def add(self, tx: Transaction, name: str, objectives: Mapping[ServiceClass, ClassObjective]) -> bool:
        """Declare a pool with no engines yet; False where there is one of this name."""
        text = rows.objectives_text(objectives)
        values = (SYSTEM_ORGANIZATION_ID, name, "interlock", 0.8, text, self._clock.now_us())
        is_new = await tx.execute(rows.SQL.add_pool, *values) > 0
        if is_new:
            await self._keep_version(tx, name, 1, PoolSettings("interlock", 0.8, dict(objectives)), {}, None)
            await self._told(tx, "pool.add", name, {})
        return is_new

    async def set(self, tx: Transaction, name: str, changes: Mapping[str, str], version: int | None) -> PoolRow:
        """Change settings, such as `interactive.ttft_ms` or `share_level`. Raises `invalid_request`."""
        pool = await self.get(tx, name)
        draining = changes.get("draining", str(pool.is_draining).lower())
        if draining not in {"true", "false"}:
            raise _wrong("draining", "`draining` is true or false.")
        changed_pool = replace(pool, is_draining=draining == "true")
        settings = set_each(pool.settings, {key: value for key, value in changes.items() if key != "draining"})
        return await self.put(tx, changed_pool, settings, version)

    async def put(
        self, tx: Transaction, pool: PoolRow, settings: PoolSettings, version: int | None, reason: str | None = None
    ) -> PoolRow:
        """Give a pool these settings as its next version. Raises `version_conflict`."""
        name, before = pool.name, await self.get(tx, pool.name)
        values = (settings.policy, settings.share_level, rows.objectives_text(settings.objectives), pool.is_draining)
        made = await tx.fetchval(rows.SQL.set_pool, SYSTEM_ORGANIZATION_ID, name, *values, version)
        if made is None:
            raise InterlockError("version_conflict", detail={"if_match": str(version)})
        differs: dict[str, list[Any]] = changed(before.settings, settings)
        if before.is_draining != pool.is_draining:
            differs["draining"] = [before.is_draining, pool.is_draining]
        await self._keep_version(tx, name, made, settings, differs, reason)
        spoken = {key: f"{old} -> {new}" for key, (old, new) in differs.items()}
        await self._told(tx, "pool.set", name, {"version": made, **spoken}, reason)
        return await self.get(tx, name)

    async def _keep_version(
        self, tx: Transaction, name: str, version: int, settings: PoolSettings, differs: dict[str, Any],
        reason: str | None,
    ) -> None:  # fmt: skip
        values = (settings.policy, settings.share_level, rows.objectives_text(settings.objectives))
        text, actor = msgspec.json.encode(differs).decode(), actor_name(tx.scope.principal)
        place = (SYSTEM_ORGANIZATION_ID, name, version)
        await tx.execute(rows.SQL.keep_version, *place, *values, text, reason, actor, self._clock.now_us())

    async def remove(self, tx: Transaction, name: str) -> None:
        """Take a pool out. Raises `pool_unknown`."""
        await self.get(tx, name)
        await tx.execute(rows.SQL.remove_pool, SYSTEM_ORGANIZATION_ID, name)
        await self._told(tx, "pool.remove", name, {})

    async def add_engine(self, tx: Transaction, name: str, wanted: EngineWanted) -> str:
        """Declare an engine of a pool; return its id."""
        made = engine_id(name, wanted.url)
        place = (SYSTEM_ORGANIZATION_ID, name, made, wanted.url, wanted.adapter, wanted.model, wanted.slots)
        figures = (wanted.context_tokens, wanted.kv_tokens, wanted.prefill_tps, wanted.tpot_ms, wanted.price_usd_hour)
        await tx.execute(rows.SQL.add_engine, *place, *figures, self._clock.now_us())
        told = {"engine": made, "url": wanted.url, "model": wanted.model}
        declared = {each: getattr(wanted, each) for each in ("slots", "prefill_tps", "price_usd_hour")}
        await self._told(tx, "pool.engine_add", name, told | declared)
        return made

    async def set_engine(
        self, tx: Transaction, name: str, engine: str, changes: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Declare other figures of an engine; what runs on it goes on. Raises `not_found`."""
        before = (await self.get(tx, name)).engine(engine)
        after = {**before, **changes}
        place = (SYSTEM_ORGANIZATION_ID, *(after[each] for each in ("pool", "engine_id", "url", "adapter", "model")))
        figures = ("slots", "context_tokens", "kv_tokens", "prefill_tps", "tpot_ms", "price_usd_hour")
        await tx.execute(rows.SQL.add_engine, *place, *(after[each] for each in figures), self._clock.now_us())
        spoken = {each: f"{before[each]} -> {after[each]}" for each in changes if before[each] != after[each]}
        await self._told(tx, "pool.engine_set", name, {"engine": engine, **spoken})
        return (await self.get(tx, name)).engine(engine)

    async def remove_engine(self, tx: Transaction, name: str, engine: str) -> None:
        """Take an engine out; what runs on it goes on. Raises `not_found`."""
        if not await tx.execute(rows.SQL.remove_engine, SYSTEM_ORGANIZATION_ID, name, engine):
            raise InterlockError("not_found")
        await self._told(tx, "pool.engine_remove", name, {"engine": engine})

    async def drain_engine(self, tx: Transaction, name: str, engine: str, *, is_draining: bool) -> None:
        """Give an engine nothing new, or work again. Raises `not_found`."""
        if not await tx.execute(rows.SQL.drain_engine, SYSTEM_ORGANIZATION_ID, name, engine, is_draining):
            raise InterlockError("not_found")
        await self._told(tx, "pool.engine_drain", name, {"engine": engine, "draining": is_draining})

    async def set_weight(self, tx: Transaction, scope: str, target: str, weight: float) -> None:
        """Give a tenant more or less than its siblings. Raises `invalid_request`."""
        kind = SCOPES.get(scope)
        if kind is None:
            raise _wrong("scope", f"`scope` is one of {', '.join(SCOPES)}.")
        if not 0.1 <= weight <= 100:
            raise _wrong("weight", "`weight` is 0.1 to 100.")
        try:
            target_id = parse_id(kind, target)
        except MalformedIdError as error:
            raise _wrong("target", f"`target` is an id {kind}_..") from error
        await tx.execute(rows.SQL.set_weight, SYSTEM_ORGANIZATION_ID, scope, target_id, weight)
        detail = {"scope": scope, "target": target, "weight": weight}
        await self._audit.append(tx, AuditEntry("pool.weight", scope, target, detail=detail))
        await bump(tx, TOPIC)

    async def costs(self, tx: Transaction, name: str, group_by: str, span_us: tuple[int, int]) -> list[dict[str, Any]]:
        """Return what the requests of a pool cost. Raises `invalid_request`."""
        kind = SCOPES.get(group_by)
        if kind is None:
            raise _wrong("group_by", f"`group_by` is one of {', '.join(SCOPES)}.")
        found = await tx.fetch(rows.SQL.costs, name, group_by, *span_us)
        return [_cost_json(each, kind) for each in found if each["target"] is not None]

    async def _told(
        self, tx: Transaction, action: str, name: str, detail: dict[str, Any], reason: str | None = None
    ) -> None:
        await self._audit.append(tx, AuditEntry(action, "pool", name, reason=reason, detail=detail))
        await bump(tx, TOPIC)


async def declared(store: Store, flags: FlagBook) -> list[PoolSpec]:
    """Return the pools as the scheduler is to run them now."""
    async with store.ops("pools") as tx:
        pools, engines, weights = await rows.read_pools(tx)
        candidates = await rows.read_candidates(tx)
    switches = _switches(flags)
    specs = []
    for row in pools:
        pool = _pool_of(row, engines)
        specs.append(
            PoolSpec(
                pool.name,
                pool.objectives,
                tuple(_engine_spec(each) for each in pool.engines),
                policy=pool.policy,
                share_level=pool.share_level,
                flags=switches,
                is_draining=pool.is_draining,
                weights=weights,
                candidate=candidates.get(pool.name),
            )
        )
    return specs


def default_objectives() -> dict[ServiceClass, ClassObjective]:
    """Return what a pool of accelerators promises."""
    return dict(ACCELERATOR_OBJECTIVES)


def pool_json(pool: PoolRow) -> dict[str, Any]:
    """Return the public object of a pool."""
    return {
        "name": pool.name,
        "policy": pool.policy,
        "share_level": pool.share_level,
        "objectives": {
            each.value: {"ttft_ms": found.ttft_ms, "tpot_ms": found.tpot_ms} for each, found in pool.objectives.items()
        },
        "draining": pool.is_draining,
        "version": pool.version,
        "engines": [dict(each) for each in pool.engines],
    }


def _switches(flags: FlagBook) -> Flags:
    """Return the scheduler's flags of the platform; one that nobody set is on."""

    def value(name: str) -> Any:
        found = flags.evaluate(name, SYSTEM_ORGANIZATION_ID, UUID(int=0))
        return None if found is None else found.value

    policy = value("scheduler.policy")
    switched = {field: value(name) is not False for field, name in _FLAGS.items()}
    return Flags(**switched, policy=policy if policy in POLICIES else None)


def set_each(settings: PoolSettings, changes: Mapping[str, str]) -> PoolSettings:
    """Return the settings with these changed. Raises `invalid_request` naming the one that is none."""
    for key, value in changes.items():
        found = with_setting(settings, key, value)
        if found is None:
            raise _wrong(key, settable())
        settings = found
    return settings


def _pool_of(row: Any, engines: list[Any]) -> PoolRow:
    own = tuple(dict(each) for each in engines if each["pool"] == row["name"])
    return PoolRow(
        row["name"], row["policy"], row["share_level"], rows.objectives_of(row["objectives"]), row["is_draining"],
        row["version"], own,
    )  # fmt: skip


def _engine_spec(row: Mapping[str, Any]) -> EngineSpec:
    return EngineSpec(
        row["url"],
        row["model"],
        row["slots"],
        row["context_tokens"],
        row["kv_tokens"],
        row["prefill_tps"] or A100_LLAMA3_8B.prefill_tps,
        row["tpot_ms"],
        row["price_usd_hour"],
        Dialect(row["adapter"]),
        row["is_draining"],
    )


def _cost_json(row: Any, kind: str) -> dict[str, Any]:
    successful = row["successful"]
    return {
        "target": format_id(kind, row["target"]),
        "requests": row["requests"],
        "successful": successful,
        "cost_usd": round(row["cost_usd"], 9),
        "cost_per_successful_request_usd": round(row["cost_usd"] / successful, 9) if successful else None,
        "charged_tokens": row["charged_tokens"],
        "wasted_tokens": row["wasted_tokens"],
    }


def _wrong(field: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field})
