"""Lists of prices as an administrator sees them: imported as a version, looked up, listed; never changed.

Computes no cost, and changes no deployment: one takes its price when it is added.
"""

from typing import Any, Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Transaction
from interlock.gateway.domain.prices import VERSIONS_MAX, ListedPrice, Price, decimal_usd, listed_name

SQL: Final = Queries("interlock.gateway")


class PriceService:
    """Use cases of `/admin/v1/prices`. An organization has at most `versions_max` versions, as none is ever deleted."""

    def __init__(
        self, identity: IdentityService, audit: AuditLog, clock: Clock, versions_max: int = VERSIONS_MAX
    ) -> None:
        self._identity = identity
        self._audit = audit
        self._clock = clock
        self._versions_max = versions_max

    async def add(
        self, tx: Transaction, version: str, effective_us: int | None, prices: list[ListedPrice]
    ) -> dict[str, Any]:
        """Add a version in the transaction's organization. Raises `name_taken`, also for one that differs.

        Raises `invalid_request` where there are as many as may be.
        """
        organization_id, now_us = tx.scope.organization_id, self._clock.now_us()
        await tx.fetchval(SQL.hold_prices, organization_id)
        if await tx.fetchval(SQL.has_prices, organization_id, version):
            raise InterlockError("name_taken", f"There is a version {version!r}, and none is ever changed.")
        if await tx.fetchval(SQL.price_versions, organization_id) >= self._versions_max:
            message = f"There are {self._versions_max} versions of lists of prices, as many as may be."
            detail = {"field": "version", "versions_max": self._versions_max}
            raise InterlockError("invalid_request", message, detail=detail)
        since_us = now_us if effective_us is None else effective_us
        columns = zip(*((each.provider, each.model, *_micros(each.price)) for each in prices), strict=True)
        await tx.execute(SQL.add_prices, organization_id, since_us, version, now_us, *columns)
        told = {"version": version, "prices": len(prices), "effective_from": rfc3339(since_us)}
        await self._audit.append(tx, AuditEntry("prices.add", "prices", version, detail=told))
        return {**told, "platform": organization_id == SYSTEM_ORGANIZATION_ID}

    async def find(self, organization_id: UUID, named: str) -> Price:
        """Return the price that `PROVIDER/MODEL` has now, by an organization's lists or the platform's.

        Of an organization's own lists and then of the platform's, the one counts that came into effect last. Raises
        `invalid_request` where none has the model: a guess would be a wrong bill.
        """
        async with self._identity.store.ops("a price of an organization or the platform") as looking:
            where = (*listed_name(named), self._clock.now_us())
            row = await looking.fetchrow(SQL.find_price, organization_id, SYSTEM_ORGANIZATION_ID, *where)
        if row is None:
            whose = "the platform" if organization_id == SYSTEM_ORGANIZATION_ID else "the organization or the platform"
            message = f"No list of prices that was imported for {whose} has {named[:256]!r} in effect."
            raise InterlockError("invalid_request", message, detail={"field": "price_of"})
        return Price(
            row["input_price_micro"], row["output_price_micro"], row["cached_input_price_micro"], row["version"]
        )

    async def page(
        self, scope: Scope, organization: str | None, version: str | None, after: tuple[str, str, str], count: int
    ) -> list[dict[str, Any]]:
        """Return the rows of an organization's lists, or of one version, behind `(version, provider, model)`."""
        within = await self._identity.scope_in(scope, organization)
        async with self._identity.store.transaction(within) as tx:
            rows = await tx.fetch(SQL.list_prices, within.organization_id, version, *after, count)
        return [_price_json(row) for row in rows]


def _micros(price: Price) -> tuple[int, int, int | None]:
    return price.input_micro, price.output_micro, price.cached_micro


def _price_json(row: Any) -> dict[str, Any]:
    cached = row["cached_input_price_micro"]
    return {
        "version": row["version"],
        "provider": row["provider"],
        "model": row["model"],
        "input_per_million_usd": decimal_usd(row["input_price_micro"]),
        "output_per_million_usd": decimal_usd(row["output_price_micro"]),
        "cached_input_per_million_usd": None if cached is None else decimal_usd(cached),
        "effective_from": rfc3339(row["effective_us"]),
    }
