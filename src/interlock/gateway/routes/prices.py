"""What control serves of lists of prices.

Serves no cost; usage and stories do.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.gateway.domain.prices import DOLLARS_MAX, ListedPrice, Price, price_micro
from interlock.gateway.service.upstreams import UpstreamService, require_name

_PATH: Final = "/admin/v1/prices"
_PRICES_MAX: Final = 5_000
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern="^[\\x21-\\x7e]+$")]


class PriceBody(msgspec.Struct, forbid_unknown_fields=True):
    """Dollars a million tokens, as numbers or decimal strings."""

    input_per_million_usd: str | float
    output_per_million_usd: str | float
    cached_input_per_million_usd: str | float | None = None


class ListedPriceBody(PriceBody, forbid_unknown_fields=True, kw_only=True):
    """The price of one model of one provider."""

    provider: _Text
    model: _Text


class PricesBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/prices`: a version of a list, in effect from a date on, now if none is given."""

    version: str
    prices: Annotated[list[ListedPriceBody], msgspec.Meta(min_length=1, max_length=_PRICES_MAX)]
    effective_from: str | None = None
    platform: bool = False


class PricesObject(msgspec.Struct):
    """A version of a list after it was added; `prices` is how many."""

    version: str
    prices: int
    effective_from: str
    platform: bool


class PriceObject(msgspec.Struct):
    """One price of a list."""

    version: str
    provider: str
    model: str
    input_per_million_usd: str
    output_per_million_usd: str
    cached_input_per_million_usd: str | None
    effective_from: str


def price_routes(upstreams: UpstreamService) -> list[Route]:
    """Return the routes of lists of prices."""
    served = _Served(upstreams)
    return [
        Route(
            "GET", _PATH, Level.ORGANIZATION, served.prices, "Prices of the lists that were added",
            action="admin:read", answer=list[PriceObject], query=("organization_id", "version"),
        ),
        Route(
            "POST", _PATH, Level.ORGANIZATION, served.add, "Add a version of a list of prices; none is ever changed",
            action="admin:write", body=PricesBody, answer=PricesObject, status=201, is_mutation=True,
            codes=("name_taken",),
        ),
    ]  # fmt: skip


class _Served:
    def __init__(self, upstreams: UpstreamService) -> None:
        self._upstreams = upstreams

    async def prices(self, call: Call) -> Reply:
        page = call.page
        version, provider, model = map(str, page.after or ("", "", ""))
        where = (call.query.get("organization_id"), call.query.get("version"))
        if where[1] is not None:
            require_name(where[1], "version")
        found = await self._upstreams.prices.page(call.within, *where, (version, provider, model), page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each["version"], each["provider"], each["model"]))
        return call.listed(kept, position)

    async def add(self, call: Call) -> Reply:
        body: PricesBody = call.body
        require_name(body.version, "version")
        rows = {(each.provider, each.model): _listed(each) for each in body.prices}
        if len(rows) < len(body.prices):
            raise InterlockError("invalid_request", "A model is listed twice.", detail={"field": "prices"})
        since_us = None if body.effective_from is None else _moment_us(body.effective_from)
        made = (body.version, since_us, list(rows.values()))
        return Reply(status=201, body=await self._upstreams.add_prices(call.tx, *made, is_platform=body.platform))


def price_of(body: PriceBody) -> Price:
    """Return the price of a body. Raises `invalid_request`."""
    cached = body.cached_input_per_million_usd
    return Price(
        _micros(body.input_per_million_usd, "input_per_million_usd"),
        _micros(body.output_per_million_usd, "output_per_million_usd"),
        None if cached is None else _micros(cached, "cached_input_per_million_usd"),
    )


def _moment_us(given: str) -> int:
    """Return the moment of a date or a time, in UTC where it names no zone. Raises `invalid_request`."""
    try:
        moment = datetime.fromisoformat(given)
        found = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise InterlockError("invalid_request", "`effective_from` is a date.", detail={"field": "effective_from"})
    return found


def _listed(body: ListedPriceBody) -> ListedPrice:
    return ListedPrice(body.provider, body.model, price_of(body))


def _micros(given: str | float, field: str) -> int:
    found = price_micro(given)
    if found is None:
        message = f"`{field}` is dollars, from 0 to {DOLLARS_MAX}, with at most six decimals."
        raise InterlockError("invalid_request", message, detail={"field": field})
    return found
