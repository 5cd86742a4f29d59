"""What control serves of the scheduler: pools, their engines, weights, live figures and costs, for the operator.

Opens no transaction of its own for a change: the call's holds the change, its audit row and its idempotency.
"""

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.scheduler.adapters.inspector import EngineInspector
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.service.pools import (
    NAME,
    EngineWanted,
    PoolService,
    default_objectives,
    engine_wanted,
    pool_json,
)

_POOLS: Final = "/admin/v1/pools"
_PLATFORM: Final = format_id("org", SYSTEM_ORGANIZATION_ID)
_ENGINES_MAX: Final = 256
_HOUR_US: Final = 3_600_000_000
_Count = Annotated[int, msgspec.Meta(gt=0, le=100_000_000)]
_Real = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]


class EngineBody(msgspec.Struct, forbid_unknown_fields=True):
    """An engine; what is left out is asked of the engine itself."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    adapter: str = "auto"
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    slots: _Count | None = None
    context_tokens: _Count | None = None
    kv_tokens: _Count | None = None
    prefill_tps: _Count | None = None
    tpot_ms: _Real | None = None
    price_usd_hour: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0


class EngineChange(msgspec.Struct, forbid_unknown_fields=True):
    """`PUT .../engines/{id}`: what is left out stays; null forgets what was declared."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    slots: _Count | msgspec.UnsetType = msgspec.UNSET
    context_tokens: _Count | msgspec.UnsetType = msgspec.UNSET
    kv_tokens: _Count | msgspec.UnsetType | None = msgspec.UNSET
    prefill_tps: _Count | msgspec.UnsetType | None = msgspec.UNSET
    tpot_ms: _Real | msgspec.UnsetType | None = msgspec.UNSET
    price_usd_hour: Annotated[float, msgspec.Meta(ge=0, le=100_000)] | msgspec.UnsetType = msgspec.UNSET


class PoolBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/pools`."""

    name: str
    engines: Annotated[list[EngineBody], msgspec.Meta(max_length=_ENGINES_MAX)] = []


class DrainBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../drain`."""

    draining: bool = True


class WeightBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PUT /admin/v1/pool-weights`."""

    scope: str
    target: str
    weight: float


class PoolHandlers:
    """The calls, in the order of the routes."""

    def __init__(
        self,
        identity: IdentityService,
        pools: PoolService,
        live: PoolClient,
        inspector: EngineInspector,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._pools = pools
        self._live = live
        self._inspector = inspector
        self._clock = clock

    async def listed(self, call: Call) -> Reply:
        """List the pools: a handful, which are read at once and cut to the page."""
        page = call.page
        first = "" if page.after is None else page.after[0]
        async with call.store.ops("pools") as tx:
            rows = sorted(
                (each for each in await self._pools.listed(tx) if each.name > first), key=lambda row: row.name
            )
        kept, after = page.cut(rows[: page.limit_plus_one], lambda row: (row.name,))
        return call.listed([pool_json(each) for each in kept], after)

    async def add(self, call: Call) -> Reply:
        """Add a pool with its engines."""
        body: PoolBody = call.body
        if not NAME.fullmatch(body.name):
            raise _wrong("name", "`name` is 1 to 64 of a-z, 0-9, `.`, `_` and `-`, a letter or digit first.")
        wanted = [await self._wanted(each) for each in body.engines]
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            if not await self._pools.add(tx, body.name, default_objectives()):
                raise InterlockError("name_taken", detail={"field": "name"})
            for each in wanted:
                await self._pools.add_engine(tx, body.name, each)
            return Reply(201, pool_json(await self._pools.get(tx, body.name)))

    async def show(self, call: Call) -> Reply:
        """Show a pool."""
        async with call.store.ops("pools") as tx:
            return Reply(body=pool_json(await self._pools.get(tx, call.params["name"])))

    async def remove(self, call: Call) -> Reply:
        """Remove a pool."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.remove(tx, call.params["name"])
        return Reply(204)

    async def engines(self, call: Call) -> Reply:
        """List the engines of a pool, all at once."""
        async with call.store.ops("engines of a pool") as tx:
            return call.listed([dict(each) for each in (await self._pools.get(tx, call.params["name"])).engines])

    async def show_engine(self, call: Call) -> Reply:
        """Show an engine as it was declared."""
        async with call.store.ops("engine of a pool") as tx:
            pool = await self._pools.get(tx, call.params["name"])
            return Reply(body=dict(pool.engine(call.params["id"])))

    async def change_engine(self, call: Call) -> Reply:
        """Declare other figures of an engine."""
        changes = {
            name: value for name, value in msgspec.structs.asdict(call.body).items() if value is not msgspec.UNSET
        }
        name, engine = call.params["name"], call.params["id"]
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            return Reply(body=dict(await self._pools.set_engine(tx, name, engine, changes)))

    async def add_engine(self, call: Call) -> Reply:
        """Add an engine."""
        wanted, name = await self._wanted(call.body), call.params["name"]
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.get(tx, name)
            await self._pools.add_engine(tx, name, wanted)
            return Reply(201, pool_json(await self._pools.get(tx, name)))

    async def remove_engine(self, call: Call) -> Reply:
        """Remove an engine."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.remove_engine(tx, call.params["name"], call.params["id"])
        return Reply(204)

    async def drain_engine(self, call: Call) -> Reply:
        """Drain an engine, or give it work again."""
        name, engine = call.params["name"], call.params["id"]
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.drain_engine(tx, name, engine, is_draining=call.body.draining)
            return Reply(body=pool_json(await self._pools.get(tx, name)))

    async def undrain_engine(self, call: Call) -> Reply:
        """Give an engine work again."""
        name, engine = call.params["name"], call.params["id"]
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.drain_engine(tx, name, engine, is_draining=False)
        return Reply(204)

    async def set_weight(self, call: Call) -> Reply:
        """Set the weight of a tenant."""
        body: WeightBody = call.body
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            await self._pools.set_weight(tx, body.scope, body.target, body.weight)
        return Reply(body={"scope": body.scope, "target": body.target, "weight": body.weight})

    async def status(self, call: Call) -> Reply:
        """Show what a pool holds now."""
        return Reply(body=await self._live.view(await self._known(call)))

    async def metrics(self, call: Call) -> Reply:
        """Show the seven metrics."""
        return Reply(body=await self._live.view(await self._known(call), "metrics"))

    async def autoscale(self, call: Call) -> Reply:
        """Show what an autoscaler reads."""
        return Reply(body=await self._live.view(await self._known(call), "autoscale"))

    async def costs(self, call: Call) -> Reply:
        """Show what requests cost."""
        now_us = self._clock.now_us()
        span = (_moment(call, "from", now_us - 24 * _HOUR_US), _moment(call, "to", now_us))
        async with call.store.ops("costs of a pool") as tx:
            found = await self._pools.costs(tx, call.params["name"], call.query.get("group_by", "organization"), span)
            if not found:
                # Costs outlive their pool: only of a name that nothing was spent under is it asked whether it is one.
                await self._pools.get(tx, call.params["name"])
        return call.listed(found)

    async def _known(self, call: Call) -> str:
        """A name goes into the scheduler's path only after the store knows it."""
        async with call.store.ops("pools") as tx:
            return (await self._pools.get(tx, call.params["name"])).name

    async def _wanted(self, body: EngineBody) -> EngineWanted:
        if body.adapter != "auto" and body.adapter not in set(Dialect):
            raise _wrong("adapter", f"`adapter` is auto or one of {', '.join(Dialect)}.")
        if body.url.partition(":")[0] not in {"unix", "http", "https"}:
            raise _wrong("url", "`url` begins with unix:, http:// or https://.")
        dialect = None if body.adapter == "auto" else Dialect(body.adapter)
        report = await self._inspector.inspect(body.url, dialect)
        model = body.model or (report.models[0] if report.models else None)
        if model is None:
            raise _wrong("model", "The engine does not answer; say which `model` it serves.")
        told = engine_wanted(report, model)
        return replace(
            told,
            url=body.url.rstrip("/"),
            adapter=told.adapter if dialect is None else dialect.value,
            slots=body.slots or told.slots,
            context_tokens=body.context_tokens or told.context_tokens,
            kv_tokens=body.kv_tokens or told.kv_tokens,
            prefill_tps=body.prefill_tps,
            tpot_ms=body.tpot_ms,
            price_usd_hour=body.price_usd_hour,
        )


def pool_routes(handlers: PoolHandlers) -> list[Route]:
    """Return the routes of pools."""
    one, engines = f"{_POOLS}/{{name}}", f"{_POOLS}/{{name}}/engines"
    return [
        _read(_POOLS, handlers.listed, "List pools.", ("limit", "cursor")),
        _write("POST", _POOLS, handlers.add, "Add a pool.", PoolBody, 201, ("name_taken",)),
        _read(one, handlers.show, "Show a pool."),
        _write("DELETE", one, handlers.remove, "Remove a pool.", None, 204),
        _read(engines, handlers.engines, "List the engines of a pool."),
        _write("POST", engines, handlers.add_engine, "Add an engine.", EngineBody, 201),
        _read(f"{engines}/{{id}}", handlers.show_engine, "Show an engine."),
        _write("PUT", f"{engines}/{{id}}", handlers.change_engine, "Declare other figures.", EngineChange, 200),
        _write("DELETE", f"{engines}/{{id}}", handlers.remove_engine, "Remove an engine.", None, 204),
        _write("POST", f"{engines}/{{id}}/drain", handlers.drain_engine, "Drain an engine.", DrainBody, 200),
        _write("DELETE", f"{engines}/{{id}}/drain", handlers.undrain_engine, "Give it work again.", None, 204),
        _write("PUT", "/admin/v1/pool-weights", handlers.set_weight, "Set the weight of a tenant.", WeightBody, 200),
        _read(f"{one}/status", handlers.status, "Show what a pool holds now."),
        _read(f"{one}/metrics", handlers.metrics, "Show the seven metrics of a pool."),
        _read(f"{one}/autoscale", handlers.autoscale, "Show what an autoscaler reads."),
        _read(f"{one}/costs", handlers.costs, "Show what requests cost.", ("group_by", "from", "to")),
    ]


def _read(path: str, handler: Any, summary: str, query: tuple[str, ...] = ()) -> Route:
    return Route(
        "GET", path, Level.PLATFORM, handler, summary, action="admin:read", query=query, codes=("pool_unknown",)
    )


def _write(method: str, path: str, handler: Any, summary: str, *rest: Any) -> Route:
    body, status, *codes = rest
    return Route(
        method, path, Level.PLATFORM, handler, summary, action="admin:write", body=body, status=status,
        is_mutation=True, codes=("pool_unknown", *(codes[0] if codes else ())),
    )  # fmt: skip


def _moment(call: Call, name: str, default_us: int) -> int:
    """Return a time in microseconds: RFC 3339, or seconds since 1970 as this call took them at first."""
    text = call.query.get(name)
    if text is None:
        return default_us
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text) * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _wrong(name, f"`{name}` is an RFC 3339 time.")
    return round(moment.timestamp() * 1_000_000)


def _wrong(field: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field})
