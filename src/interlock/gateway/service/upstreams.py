"""Providers and deployments as an administrator sees them: added, listed, deleted; never changed.

Decides nothing about traffic. A provider's secret is sealed and read back by nobody but an edge.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.secrets import SecretService
from interlock.foundation.store import Queries, Transaction
from interlock.foundation.wire import parse_url
from interlock.gateway.domain.directory import Capabilities, ProviderKind
from interlock.gateway.domain.prices import ListedPrice, Price, decimal_usd
from interlock.gateway.service.place import with_version
from interlock.gateway.service.prices import PriceService

SQL = Queries("interlock.gateway")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MODEL: Final = re.compile(r"[\x21-\x7e]{1,200}")
_URL_CHARS_MAX: Final = 512
# Kinds that an administrator adds; the others come with the platform.
_EXTERNAL: Final = frozenset({ProviderKind.OPENAI, ProviderKind.ANTHROPIC})
PLATFORM: Final = format_id("org", SYSTEM_ORGANIZATION_ID)


UNKNOWN: Final = Capabilities()


@dataclass(frozen=True, slots=True)
class ProviderWanted:
    """A provider as it was asked for."""

    name: str
    kind: ProviderKind
    base_url: str
    secret: str | None
    allow_http: bool
    is_platform: bool


@dataclass(frozen=True, slots=True)
class DeploymentWanted:
    """A deployment as it was asked for; `price` may be `PROVIDER/MODEL` of a list."""

    name: str
    provider: str
    upstream_model: str
    price: Price | str | None = None
    max_concurrent: int | None = None
    capabilities: Capabilities = UNKNOWN


class UpstreamService:
    """Use cases of `/admin/v1/providers` and `/admin/v1/deployments`. What is the platform's is its operator's."""

    def __init__(
        self, identity: IdentityService, secrets: SecretService, audit: AuditLog, clock: Clock, ids: IdFactory
    ) -> None:
        self._identity = identity
        self._secrets = secrets
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self.prices = PriceService(identity, audit, clock)

    async def add_prices(
        self, tx: Transaction, version: str, effective_us: int | None, prices: list[ListedPrice], *, is_platform: bool
    ) -> dict[str, Any]:
        """Add a version of a list of prices. Raises `name_taken`, `role_denied`."""
        if is_platform:
            _require_operator(tx.scope)
        async with self._identity.acting(tx, PLATFORM if is_platform else None) as inside:
            return await self.prices.add(inside, version, effective_us, prices)

    async def add_provider(self, tx: Transaction, wanted: ProviderWanted) -> dict[str, Any]:
        """Add a provider. Raises `invalid_request`, `role_denied`, `name_taken`."""
        require_name(wanted.name, "name")
        pool = _pool_of(tx.scope, wanted) if wanted.kind is ProviderKind.POOL else None
        base_url = _checked_url(wanted) if pool is None else None
        owner = None
        if wanted.is_platform:
            _require_operator(tx.scope)
            owner = PLATFORM
        async with self._identity.acting(tx, owner) as inside:
            provider_id, secret, last4 = self._ids.new(), None, None
            if wanted.secret is not None:
                secret = f"provider-{wanted.name}"
                last4 = (await self._secrets.set(inside, secret, wanted.secret)).last4
            place = (inside.scope.organization_id, wanted.name, provider_id)
            now_us = self._clock.now_us()
            await _insert(
                inside, SQL.add_provider, (*place, wanted.kind, base_url, secret, wanted.is_platform, now_us, pool)
            )
            detail = {"name": wanted.name, "kind": str(wanted.kind), "base_url": wanted.base_url}
            await self._told(inside, "provider.add", "prov", provider_id, detail)
            row = await inside.fetchrow(SQL.find_provider, place[0], wanted.name, None)
        await bump(tx, "routes")
        return {**provider_json(row), "secret_last4": last4}

    async def add_deployment(self, tx: Transaction, wanted: DeploymentWanted) -> dict[str, Any]:
        """Add a deployment where its provider lives. Raises `invalid_request`, `not_found`, `name_taken`."""
        require_name(wanted.name, "name")
        if not _MODEL.fullmatch(wanted.upstream_model):
            raise _wrong("upstream_model", "`upstream_model` is 1 to 200 printable characters without blanks.")
        owner, provider = await self._found(tx, SQL.find_provider, "prov", wanted.provider, "provider")
        async with self._identity.acting(tx, owner) as inside:
            deployment_id = self._ids.new()
            place = (inside.scope.organization_id, wanted.name, deployment_id, provider["name"])
            price = wanted.price
            if isinstance(price, str):
                price = await self.prices.find(place[0], price)
            can = msgspec.json.encode(wanted.capabilities).decode()
            bounds = (wanted.max_concurrent, can)
            values = (*place, wanted.upstream_model, *_price_values(price), *bounds, self._clock.now_us())
            await _insert(inside, SQL.add_deployment, values)
            row = await inside.fetchrow(SQL.find_deployment, place[0], wanted.name, None)
            made = deployment_json(row)
            await self._told(inside, "deployment.add", "dep", deployment_id, {**made, "id": wanted.name})
        await bump(tx, "routes")
        return made

    async def delete_provider(self, tx: Transaction, named: str) -> dict[str, Any]:
        """Delete a provider that no deployment names. Raises `in_use`, `not_found`."""
        owner, row = await self._found(tx, SQL.find_provider, "prov", named, "id")
        async with self._identity.acting(tx, owner) as inside:
            try:
                async with inside.savepoint():
                    await inside.execute(SQL.delete_provider, row["organization_id"], row["name"])
            except asyncpg.ForeignKeyViolationError as error:
                raise InterlockError("in_use", "A deployment names this provider.") from error
            if row["secret"] is not None and row["kind"] in _EXTERNAL:
                await self._secrets.remove(inside, row["secret"])
            await self._told(inside, "provider.delete", "prov", row["id"], {"name": row["name"]})
        await bump(tx, "routes")
        return provider_json(row)

    async def delete_deployment(self, tx: Transaction, named: str) -> dict[str, Any]:
        """Delete a deployment that no version names which takes traffic. Raises `in_use`, `not_found`."""
        owner, row = await self._found(tx, SQL.find_deployment, "dep", named, "id")
        is_platform = row["organization_id"] == SYSTEM_ORGANIZATION_ID
        async with self._identity.store.ops("who uses a deployment") as looking:
            users = await looking.fetch(SQL.deployment_users, row["organization_id"], row["name"], is_platform)
        if users:
            named_by = [f"{each['alias']}@{each['version']}" for each in users[:10]]
            raise InterlockError("in_use", "A version that takes traffic names it.", detail={"versions": named_by})
        async with self._identity.acting(tx, owner) as inside:
            await inside.execute(SQL.delete_deployment, row["organization_id"], row["name"])
            await self._told(inside, "deployment.delete", "dep", row["id"], {"name": row["name"]})
        await bump(tx, "routes")
        return deployment_json(row)

    async def providers(self, scope: Scope, organization: str | None, after: str, count: int) -> list[dict[str, Any]]:
        """Return providers by name, those behind `after`."""
        return [provider_json(row) for row in await self._page(scope, SQL.list_providers, organization, (after, count))]

    async def deployments(self, scope: Scope, organization: str | None, after: str, count: int) -> list[dict[str, Any]]:
        """Return deployments by name, those behind `after`."""
        rows = await self._page(scope, SQL.list_deployments, organization, (after, count))
        return [deployment_json(row) for row in rows]

    async def _page(self, scope: Scope, query: Any, organization: str | None, where: tuple[str, int]) -> list[Any]:
        async with listing(self._identity, scope, organization) as (tx, owners):
            return await tx.fetch(query, owners[0], *where, owners[1])

    async def _found(self, tx: Transaction, query: Any, kind: str, named: str, field: str) -> tuple[str | None, Any]:
        """Return the organization to act in and the row: the caller's own, else the platform's for its operator."""
        row = await tx.fetchrow(query, tx.scope.organization_id, named, parsed(kind, named))
        if row is not None:
            return None, row
        if tx.scope.principal.is_platform_operator:
            async with self._identity.acting(tx, PLATFORM) as inside:
                row = await inside.fetchrow(query, SYSTEM_ORGANIZATION_ID, named, parsed(kind, named))
        if row is None:
            raise InterlockError("not_found", f"There is no {named[:128]!r}.", detail={"field": field})
        return PLATFORM, row

    async def _told(self, tx: Transaction, action: str, kind: str, target: UUID, detail: dict[str, Any]) -> None:
        await self._audit.append(
            tx, AuditEntry(action, action.partition(".")[0], format_id(kind, target), detail=detail)
        )


def provider_json(row: Any) -> dict[str, Any]:
    """Return the public object of a provider."""
    return {
        "id": format_id("prov", row["id"]),
        "name": row["name"],
        "kind": row["kind"],
        "base_url": row["base_url"],
        "pool": row["pool"],
        "has_secret": row["secret"] is not None,
        "platform": row["organization_id"] == SYSTEM_ORGANIZATION_ID,
        "created_at": rfc3339(row["created_us"]),
    }


def deployment_json(row: Any) -> dict[str, Any]:
    """Return the public object of a deployment."""
    return {
        "id": format_id("dep", row["id"]),
        "name": row["name"],
        "provider": row["provider"],
        "upstream_model": row["upstream_model"],
        "price": _price_json(row),
        "max_concurrent": row["max_concurrent"],
        "capabilities": msgspec.json.decode(row["capabilities"], type=dict[str, int | bool | None]),
        "platform": row["organization_id"] == SYSTEM_ORGANIZATION_ID,
        "created_at": rfc3339(row["created_us"]),
    }


def _price_json(row: Any) -> dict[str, str | None] | None:
    given, made, cached = row["input_price_micro"], row["output_price_micro"], row["cached_input_price_micro"]
    if given is None or made is None:
        return None
    return {
        "input_per_million_usd": decimal_usd(given),
        "output_per_million_usd": decimal_usd(made),
        "cached_input_per_million_usd": None if cached is None else decimal_usd(cached),
        "version": row["price_version"],
    }


def _price_values(price: Price | None) -> tuple[int | str | None, ...]:
    if price is None:
        return None, None, None, None
    return price.input_micro, price.output_micro, price.cached_micro, price.version


@asynccontextmanager
async def listing(
    identity: IdentityService, scope: Scope, organization: str | None
) -> AsyncIterator[tuple[Transaction, tuple[UUID, UUID | None]]]:
    """Yield a transaction and whose rows a list shows: an organization's, and to the operator the platform's as well.

    Whoever names an organization sees its own alone.
    """
    within = await identity.scope_in(scope, organization)
    own = within.organization_id
    if organization is None and scope.principal.is_platform_operator and own != SYSTEM_ORGANIZATION_ID:
        async with identity.store.ops("the operator lists the platform's beside an organization's own") as tx:
            yield tx, (own, SYSTEM_ORGANIZATION_ID)
        return
    async with identity.store.transaction(within) as tx:
        yield tx, (own, None)


def require_name(name: str, field: str) -> None:
    """Refuse what is no name. Raises `invalid_request`."""
    if not NAME.fullmatch(name):
        raise _wrong(field, f"`{field}` is 1 to 128 letters, digits, `.`, `_`, `:` or `-`, a letter or digit first.")


def parsed(kind: str, text: str) -> UUID | None:
    """Return the uuid of an id, None for what is none."""
    try:
        return parse_id(kind, text)
    except (MalformedIdError, IndexError):
        return None


def _pool_of(scope: Scope, wanted: ProviderWanted) -> str:
    """Return the pool of `pool:NAME`. Engines are the platform's, so its operator says who reaches them."""
    _require_operator(scope)
    scheme, _, pool = wanted.base_url.partition(":")
    if scheme != "pool" or not NAME.fullmatch(pool):
        raise _wrong("base_url", "The `base_url` of a pool is `pool:NAME`.")
    if wanted.secret is not None:
        raise _wrong("secret", "A pool takes no secret.")
    return pool


def _checked_url(wanted: ProviderWanted) -> str:
    if wanted.kind not in _EXTERNAL:
        raise _wrong("kind", "`kind` is `openai`, `anthropic` or `pool`; offline models come with the platform.")
    try:
        origin, target, _ = parse_url(wanted.base_url)
    except ValueError as error:
        raise _wrong("base_url", f"`base_url` is no address: {error}.") from error
    if len(wanted.base_url) > _URL_CHARS_MAX or b"?" in target or "#" in wanted.base_url:
        raise _wrong("base_url", f"`base_url` has at most {_URL_CHARS_MAX} characters and no query.")
    if origin.scheme != "https" and not wanted.is_platform:
        raise _wrong("base_url", "A provider of an organization's own is reached by https.")
    if origin.scheme == "http" and not (wanted.allow_http or _is_loopback(origin.host)):
        raise _wrong("allow_http", "A provider without https needs `allow_http`, unless it is on this machine.")
    return wanted.base_url.rstrip("/") if origin.scheme == "unix" else with_version(wanted.base_url)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_operator(scope: Scope) -> None:
    if not scope.principal.is_platform_operator:
        raise InterlockError("role_denied", "What is the platform's is its operator's.")


async def _insert(tx: Transaction, query: Any, values: tuple[Any, ...]) -> None:
    try:
        async with tx.savepoint():
            await tx.execute(query, *values)
    except asyncpg.UniqueViolationError as error:
        raise InterlockError("name_taken", detail={"field": "name"}) from error


def _wrong(field: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field})
