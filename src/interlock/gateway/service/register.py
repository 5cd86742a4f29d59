"""What the platform starts with: the engine's and the offline models' provider, deployments and routes, stable.

Probes no engine beyond the list of its models and changes nothing that is already as it should be.
"""

import re
from collections.abc import Mapping, Sequence
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
from interlock.gateway.domain.directory import Deployment, Provider, ProviderKind, RouteSpec, Target, Weight
from interlock.gateway.domain.versions import canonical_spec, digest_of
from interlock.gateway.service.place import with_version
from interlock.gateway.store import routes as rows

SQL = Queries("interlock.gateway")
PROVIDER: Final = "engine"
OFFLINE: Final = "offline"
DEFAULT_ALIAS: Final = "default"
# Asked once, while a person waits for the platform to start.
_PATIENT: Final = Timeouts(30.0, 60.0, 60.0, 120.0)
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
        async with client.request("GET", f"{url}/models", headers, b"", _PATIENT) as answer:
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
    owner = scope.organization_id
    if isinstance(choice, PoolEngine):
        provider = Provider(owner, PROVIDER, ProviderKind.POOL, pool=choice.pool)
        aliases = {DEFAULT_ALIAS: choice.model}
    else:
        provider = Provider(owner, PROVIDER, ProviderKind.OPENAI, choice.base_url, secret=choice.secret)
        aliases = {DEFAULT_ALIAS: choice.models[0], **{name: name for name in choice.models}}
    names = deployment_names(tuple(dict.fromkeys(aliases.values())))
    return await _register(store, scope, (provider, names, aliases), clock, ids)


async def register_offline(
    store: Store, scope: Scope, socket_path: str, models: Sequence[str], *, clock: Clock, ids: IdFactory
) -> tuple[str, ...]:
    """Make a chat server of the platform's own, behind a socket, reachable: one alias a model, for everybody.

    An alias of another such model that was there before leads nowhere from now on.
    """
    provider = Provider(scope.organization_id, OFFLINE, ProviderKind.OFFLINE, f"unix:{socket_path}:/v1")
    names = {model: model for model in models}
    return await _register(store, scope, (provider, names, names), clock, ids)


async def _register(
    store: Store,
    scope: Scope,
    wanted: tuple[Provider, Mapping[str, str], Mapping[str, str]],
    clock: Clock,
    ids: IdFactory,
) -> tuple[str, ...]:
    """Write a provider, its deployments by model and its models by alias, as far as they are not so already."""
    provider, names, aliases = wanted

    async def work(tx: Transaction) -> tuple[str, ...]:
        registration = _Registration(tx, provider, clock, ids)
        await registration.provider()
        for model, name in names.items():
            await registration.deployment(name, model)
        for alias, model in aliases.items():
            await registration.route(alias, names[model], model)
        if provider.kind is ProviderKind.OFFLINE:
            await tx.execute(SQL.prune_deployments, scope.organization_id, OFFLINE, list(names.values()))
        await bump(tx, "routes")
        return tuple(aliases)

    return await store.run(scope, work)


class _Registration:
    def __init__(self, tx: Transaction, provider: Provider, clock: Clock, ids: IdFactory) -> None:
        self._tx = tx
        self._provider = provider
        self._clock = clock
        self._ids = ids

    async def provider(self) -> None:
        given = self._provider
        address = (given.kind, given.base_url, given.pool, given.secret)
        await self._tx.execute(SQL.put_provider, given.organization_id, given.name, self._ids.new(), *address)

    async def deployment(self, name: str, model: str) -> None:
        owner = self._provider.organization_id
        await self._tx.execute(SQL.put_deployment, owner, name, self._ids.new(), self._provider.name, model)

    async def route(self, alias: str, deployment: str, model: str) -> None:
        """Lead an alias to a model. What the operator starts the platform with needs no verdict."""
        owner = self._provider.organization_id
        spec = RouteSpec(targets=(Target(deployment),))
        digest = digest_of(spec, [Deployment(owner, deployment, self._provider.name, model)])
        latest = await self._tx.fetchrow(SQL.latest_version, owner, alias)
        if latest is not None and latest["digest"] == digest:
            return
        content = (canonical_spec(spec), digest)
        version, _ = await rows.add_version(self._tx, (owner, alias), self._ids.new(), content, self._clock.now_us())
        if version > 1:
            await rows.put_weight(self._tx, Weight(owner, alias, version))


def deployment_names(models: tuple[str, ...]) -> dict[str, str]:
    """Name deployments as their models, less the folder that some servers put before a name; in doubt with it."""
    short = {model: model.rstrip("/").rpartition("/")[2] or model for model in models}
    taken = list(short.values())
    return {model: name if taken.count(name) == 1 else model for model, name in short.items()}
