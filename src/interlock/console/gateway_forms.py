"""What the console changes of the front door: limits, and weights of versions.

Decides nothing: a weight rises by a live verdict alone, here as over the API.
"""

from dataclasses import dataclass
from typing import Final, Never

from interlock.console.addresses import HTML
from interlock.console.render import sent_to
from interlock.contracts.rollouts import WeightInForce, WeightMode, WeightRefused
from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.gateway import (
    Dimension,
    LimitBody,
    LimitMode,
    LimitScope,
    LimitsService,
    Weights,
    WeightWanted,
    limit_wanted,
)

# Long enough for whoever looks on and renews by hand; a rollout renews by itself.
_LEASE_S: Final = 600.0
_TOKEN_CHARS_MAX: Final = 8_192
_BODY_BYTES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class GatewayForms:
    """Serves the forms of limits and routes."""

    limits: LimitsService
    weights: Weights

    async def set_limit(self, call: Call) -> Reply:
        """Set a limit, and go back to the list. Raises `invalid_request`, `not_found`, `role_denied`."""
        form = call.form
        try:
            body = LimitBody(
                scope=LimitScope(form.get("scope", "")),
                target=form.get("target", "").strip(),
                dimension=Dimension(form.get("dimension", "")),
                limit=_number(form.get("limit", "")),
                model=form.get("model", "").strip() or "*",
                mode=LimitMode(form.get("mode", "")),
            )
        except ValueError:
            _wrong("A limit has a scope, a dimension, a mode and a number.", "limit")
        await self.limits.put(call.tx, limit_wanted(body))
        return sent_to("/console/limits")

    async def delete_limit(self, call: Call) -> Reply:
        """Delete a limit, and go back to the list. Raises `not_found`."""
        await self.limits.delete(call.tx, call.params["id"])
        return sent_to("/console/limits")

    async def set_weight(self, call: Call) -> Reply:
        """Give a version a weight, and go back to its route. Raises `invalid_request` and the refusals of verdicts."""
        form, alias = call.form, call.params["alias"]
        try:
            version, weight = int(form.get("version", "")), float(form.get("weight", ""))
            mode = WeightMode(form.get("mode", ""))
        except ValueError:
            _wrong("A weight has the number of a version, a percentage and a mode.", "weight")
        token = form.get("verdict_token", "").strip()
        if not 0 <= weight <= 100 or not 0 <= version < 2**31 or len(token) > _TOKEN_CHARS_MAX:
            _wrong("`weight` is a percentage from 0 to 100, `version` the number of a version.", "weight")
        wanted = WeightWanted(version, weight, mode, token or None, _LEASE_S)
        return _weighed(alias, await self.weights.set(call.tx, alias, wanted))

    async def freeze(self, call: Call) -> Reply:
        """Keep the weight that is in force, and go back to the route. Raises `not_found`, `verdict_required`."""
        alias = call.params["alias"]
        return _weighed(alias, await self.weights.freeze(call.tx, alias, _LEASE_S))

    async def roll_back(self, call: Call) -> Reply:
        """Give everything to the stable version, and go back to the route. Raises `not_found`."""
        alias = call.params["alias"]
        return _weighed(alias, await self.weights.rollback(call.tx, alias, "rolled back in the console"))


def gateway_forms(forms: GatewayForms) -> list[Route]:
    """Return the routes of the forms."""
    return [
        _form("/limits", forms.set_limit, "Set a limit; the same scope, target, dimension and model replaces."),
        _form("/limits/{id}/delete", forms.delete_limit, "Delete a limit."),
        _form("/routes/{alias}/weights", forms.set_weight, "Give a version a weight, with a live verdict."),
        _form("/routes/{alias}/freeze", forms.freeze, "Keep the weight that is in force, and renew its lease."),
        _form("/routes/{alias}/rollback", forms.roll_back, "Give everything to the stable version."),
    ]


def _form(path: str, handler: Handler, summary: str) -> Route:
    return Route("POST", f"/console{path}", Level.ORGANIZATION, handler, summary, action="admin:write", is_html=True,
                 is_mutation=True, body_bytes_max=_BODY_BYTES_MAX, media_type=HTML)  # fmt: skip


def _weighed(alias: str, found: WeightInForce | WeightRefused) -> Reply:
    if isinstance(found, WeightRefused):
        raise InterlockError(found.code, found.message, detail=found.detail)
    return sent_to(f"/console/routes/{alias}")


def _number(text: str) -> int | float:
    number = float(text.replace(",", "").strip())
    return int(number) if number.is_integer() else number


def _wrong(message: str, field: str) -> Never:
    raise InterlockError("invalid_request", message, detail={"field": field})
