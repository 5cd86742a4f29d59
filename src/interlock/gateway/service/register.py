"""The engine that the platform starts with: its provider, deployments and routes, as version 1, stable.

Probes no engine beyond the list of its models and changes nothing that is already as it should be.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.ids import IdFactory
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Store, Transaction
from interlock.foundation.wire import Client, Timeouts, UpstreamError
from interlock.gateway.domain.directory import ProviderKind, RouteSpec, Target
from interlock.gateway.service.place import with_version

SQL = Queries("interlock.gateway")
PROVIDER: Final = "engine"
DEFAULT_ALIAS: Final = "default"
_MODELS_BYTES_MAX: Final = 4 << 20
_MODELS_MAX: Final = 1_000
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class PoolEngine:
    """Engines behind the scheduler: the pool's name and the model that they serve."""

    pool: str
    model: str


@dataclass(frozen=True, slots=True)
class UrlEngine:
    """An OpenAI-compatible server and the models that it lists. `secret` names an envelope with its bearer key."""

    base_url: str
    models: tuple[str, ...]
    secret: str | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def list_models(client: Client, base_url: str, bearer: str | None = None) -> UrlEngine:
    """Ask a server which models it serves. Raises `upstream_error` when it does not say."""
    url = with_version(base_url)
    headers = [(b"authorization", b"Bearer " + bearer.encode())] if bearer else []
    try:
        async with client.request("GET", f"{url}/models", headers, b"", Timeouts(2.0, 10.0, 10.0, 20.0)) as answer:
            content = await answer.read(_MODELS_BYTES_MAX)
            if answer.status != 200:
                raise InterlockError("upstream_error", f"{url}/models answered {answer.status}.")
            found = msgspec.json.decode(content, type=_Models)
    except (UpstreamError, msgspec.DecodeError) as error:
        raise InterlockError("upstream_error", f"{url}/models: {error}") from error
    names = tuple(dict.fromkeys(each.id for each in found.data[:_MODELS_MAX] if _NAME.fullmatch(each.id)))
    if not names:
        raise InterlockError("upstream_error", f"{url}/models lists no model.")
    return UrlEngine(url, names)


async def register_engine(
    store: Store, scope: Scope, choice: PoolEngine | UrlEngine, *, clock: Clock, ids: IdFactory
) -> tuple[str, ...]:
    """Make the engine reachable and return its aliases. `scope` is that of the organization which owns the rows."""

    async def work(tx: Transaction) -> tuple[str, ...]:
        registration = _Registration(tx, scope, clock, ids)
        if isinstance(choice, PoolEngine):
            await registration.provider(ProviderKind.POOL, None, choice.pool, None)
            aliases = {DEFAULT_ALIAS: choice.model}
        else:
            await registration.provider(ProviderKind.OPENAI, choice.base_url, None, choice.secret)
            aliases = {DEFAULT_ALIAS: choice.models[0], **{name: name for name in choice.models}}
        names = deployment_names(tuple(dict.fromkeys(aliases.values())))
        for model, name in names.items():
            await registration.deployment(name, model)
        for alias, model in aliases.items():
            await registration.route(alias, names[model])
        await bump(tx, "routes")
        return tuple(aliases)

    return await store.run(scope, work)


class _Registration:
    def __init__(self, tx: Transaction, scope: Scope, clock: Clock, ids: IdFactory) -> None:
        self._tx = tx
        self._organization_id = scope.organization_id
        self._clock = clock
        self._ids = ids

    async def provider(self, kind: ProviderKind, base_url: str | None, pool: str | None, secret: str | None) -> None:
        await self._tx.execute(
            SQL.put_provider, self._organization_id, PROVIDER, self._ids.new(), kind, base_url, pool, secret
        )

    async def deployment(self, name: str, model: str) -> None:
        await self._tx.execute(SQL.put_deployment, self._organization_id, name, self._ids.new(), PROVIDER, model)

    async def route(self, alias: str, deployment: str) -> None:
        spec = RouteSpec(targets=(Target(deployment),))
        canonical = msgspec.json.encode(spec, order="sorted")
        digest = f"sha256:{hashlib.sha256(canonical).hexdigest()}"
        latest = await self._tx.fetchrow(SQL.latest_version, self._organization_id, alias)
        if latest is not None and latest["digest"] == digest:
            return
        version = 1 if latest is None else latest["version"] + 1
        now_us = self._clock.now_us()
        await self._tx.execute(SQL.put_route, self._organization_id, alias, self._ids.new(), version, now_us)
        await self._tx.execute(
            SQL.add_version, self._organization_id, alias, version, digest, canonical.decode(), now_us
        )


def deployment_names(models: tuple[str, ...]) -> dict[str, str]:
    """Name deployments as their models, less the folder that some servers put before a name; in doubt with it."""
    short = {model: model.rstrip("/").rpartition("/")[2] or model for model in models}
    taken = list(short.values())
    return {model: name if taken.count(name) == 1 else model for model, name in short.items()}
