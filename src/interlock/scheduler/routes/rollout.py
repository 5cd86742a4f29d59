"""What control serves of a pool's versions and its candidate, for the operator.

Opens no transaction of its own for a change: the call's holds the change, its audit row and its idempotency.
"""

from typing import Annotated, Any, Final

import msgspec

from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.domain.arms import BASIS_POINTS
from interlock.scheduler.service.pools import pool_json
from interlock.scheduler.service.rollout import NEWEST, PoolRollouts

# What a required gate of the pool may answer.
_GATED: Final = ("gate_blocked", "verdict_weight_exceeded")
_ONE: Final = "/admin/v1/pools/{name}"
_PLATFORM: Final = format_id("org", SYSTEM_ORGANIZATION_ID)


class SettingsBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PUT /admin/v1/pools/{name}`: settings as text, such as `interactive.ttft_ms`."""

    settings: dict[str, str]


class BackBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/pools/{name}/back`."""

    version: Annotated[int, msgspec.Meta(ge=1, le=NEWEST)]


class CandidateBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PUT /admin/v1/pools/{name}/candidate`: settings that differ, as text."""

    settings: Annotated[dict[str, str], msgspec.Meta(min_length=1, max_length=32)]


_Number = Annotated[int, msgspec.Meta(ge=1, le=NEWEST)]


class CanaryBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/pools/{name}/candidate/canary`: the share of workspaces in basis points, and of which try."""

    share_bp: Annotated[int, msgspec.Meta(ge=1, le=BASIS_POINTS)]
    number: _Number | None = None


class PromoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/pools/{name}/candidate/promote`: which try, where it is not whichever is open."""

    number: _Number | None = None


class RolloutHandlers:
    """The calls, in the order of the routes."""

    def __init__(self, identity: IdentityService, rollouts: PoolRollouts, live: PoolClient) -> None:
        self._identity = identity
        self._rollouts = rollouts
        self._live = live

    async def change(self, call: Call) -> Reply:
        """Change settings of a pool for everybody."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            changed = await self._rollouts.set(tx, call.params["name"], call.body.settings, call.if_match)
            return Reply(body=pool_json(changed))

    async def versions(self, call: Call) -> Reply:
        """List the versions of a pool's settings."""
        page = call.page
        before = NEWEST if page.after is None else int(page.after[0])
        async with call.store.ops("versions of a pool") as tx:
            found = await self._rollouts.versions(tx, call.params["name"], before, page.limit_plus_one)
        kept, after = page.cut(found, lambda row: (str(row["version"]),))
        return call.listed(kept, after)

    async def back(self, call: Call) -> Reply:
        """Go back to a former version."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            made = await self._rollouts.back(tx, call.params["name"], call.body.version, call.if_match)
            return Reply(body=pool_json(made))

    async def show(self, call: Call) -> Reply:
        """Show the candidate of a pool, and what its leader has seen of it."""
        name = call.params["name"]
        async with call.store.ops("candidate of a pool") as tx:
            found = await self._rollouts.candidate(tx, name)
        gate = await self._rollouts.gate(name, found["artifact_digest"])
        return Reply(body={**found, "gate": gate, "live": await self._seen(found)})

    async def attempt(self, call: Call) -> Reply:
        """Try settings in the shadow."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            return Reply(body=await self._rollouts.attempt(tx, call.params["name"], call.body.settings))

    async def canary(self, call: Call) -> Reply:
        """Let the candidate decide for some workspaces."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            name, given = call.params["name"], call.body
            return Reply(body=await self._rollouts.canary(tx, name, given.share_bp, given.number))

    async def promote(self, call: Call) -> Reply:
        """Let the candidate decide for all."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            made = await self._rollouts.promote(tx, call.params["name"], call.if_match, call.body.number)
            return Reply(body=pool_json(made))

    async def drop(self, call: Call) -> Reply:
        """End the try."""
        async with self._identity.acting(call.tx, _PLATFORM) as tx:
            return Reply(body=await self._rollouts.drop(tx, call.params["name"]))

    async def _seen(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the leader says of this very try; None where it says nothing of it."""
        try:
            seen = await self._live.view(found["pool"], "candidate")
        except InterlockError:
            return None
        return seen if seen["number"] == found["number"] else None


def rollout_routes(handlers: RolloutHandlers) -> list[Route]:
    """Return the routes of versions and candidates."""
    tried, conflict = f"{_ONE}/candidate", "version_conflict"
    gated = (conflict, *_GATED)
    return [
        _write("PUT", _ONE, handlers.change, "Change settings of a pool.", SettingsBody, *gated),
        _read(f"{_ONE}/versions", handlers.versions, "List versions of a pool's settings.", ("limit", "cursor")),
        _write("POST", f"{_ONE}/back", handlers.back, "Go back to a former version.", BackBody, conflict),
        _read(tried, handlers.show, "Show the candidate of a pool."),
        _write("PUT", tried, handlers.attempt, "Try settings in the shadow.", CandidateBody, "rollout_active"),
        _write("DELETE", tried, handlers.drop, "End the try of a candidate.", None),
        _write("POST", f"{tried}/canary", handlers.canary, "Let the candidate decide for some.", CanaryBody, *gated),
        _write("POST", f"{tried}/promote", handlers.promote, "Let the candidate decide for all.", PromoteBody, *gated),
    ]


def _read(path: str, handler: Any, summary: str, query: tuple[str, ...] = ()) -> Route:
    return Route(
        "GET", path, Level.PLATFORM, handler, summary, action="admin:read", codes=("pool_unknown", "not_found"),
        query=query,
    )  # fmt: skip


def _write(method: str, path: str, handler: Any, summary: str, body: Any, *codes: str) -> Route:
    return Route(
        method, path, Level.PLATFORM, handler, summary, action="admin:write", body=body, is_mutation=True,
        codes=("pool_unknown", "not_found", *codes),
    )  # fmt: skip
