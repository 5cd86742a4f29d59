"""HTTP of hosts for the platform's operator: what holds for every tenant's crawls.

Tells no URLs and no tenants.
"""

from typing import Any, Final

import msgspec

from interlock.crawler.routes.views import host_view, rule_view
from interlock.crawler.service.hosts import HostRules, HostStates, checked_host
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError

_PATH: Final = "/admin/v1/crawl-hosts"
_DELAY_S_MAX: Final = 86_400.0
_CONCURRENCY_MAX: Final = 32


class HostRuleBody(msgspec.Struct, forbid_unknown_fields=True):
    """An operator's decision about a host or `*.domain`."""

    reason: str
    delay_s: float | None = None
    concurrency: int | None = None
    blocked: bool = False


class HostHandlers:
    """One method a call."""

    def __init__(self, states: HostStates, rules: HostRules) -> None:
        self._states = states
        self._rules = rules

    async def listed(self, call: Call) -> Reply:
        """Answer a page of hosts."""
        page = call.page
        rows = await self._states.listed("" if page.after is None else page.after[0], page.limit_plus_one)
        kept, after = page.cut(rows, lambda row: (row.authority,))
        return call.listed([host_view(row) for row in kept], after)

    async def one(self, call: Call) -> Reply:
        """Answer the rule of a name and the hosts under it."""
        return Reply(body=await self._shown(checked_host(call.params["host"])))

    async def put(self, call: Call) -> Reply:
        """Set the rule of a name."""
        body: HostRuleBody = call.body
        if body.delay_s is not None and not 0 <= body.delay_s <= _DELAY_S_MAX:
            raise InterlockError("invalid_request", detail={"field": "delay_s"})
        if body.concurrency is not None and not 1 <= body.concurrency <= _CONCURRENCY_MAX:
            raise InterlockError("invalid_request", detail={"field": "concurrency"})
        name = checked_host(call.params["host"])
        delay_ms = None if body.delay_s is None else round(body.delay_s * 1000)
        await self._rules.put(call.tx, name, delay_ms, body.concurrency, is_blocked=body.blocked, reason=body.reason)
        return Reply(body=await self._shown(name))

    async def _shown(self, name: str) -> dict[str, Any]:
        hosts = await self._states.listed("", 200, name)
        return {**rule_view(name, await self._states.rule(name)), "hosts": [host_view(each) for each in hosts]}


def host_routes(handlers: HostHandlers) -> list[Route]:
    """Return the routes of hosts."""
    return [
        Route(
            "GET", _PATH, Level.PLATFORM, handlers.listed, "Hosts that crawls visit.", action="crawls:admin",
            query=("limit", "cursor"),
        ),
        Route(
            "GET", f"{_PATH}/{{host}}", Level.PLATFORM, handlers.one, "A host, and the operator's rule for it.",
            action="crawls:admin", codes=("invalid_spec",),
        ),
        Route(
            "PUT", f"{_PATH}/{{host}}", Level.PLATFORM, handlers.put, "Set an operator's rule for a host.",
            action="crawls:admin", body=HostRuleBody, is_mutation=True, codes=("invalid_spec",),
        ),
    ]  # fmt: skip
