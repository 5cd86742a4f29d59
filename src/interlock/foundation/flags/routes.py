"""HTTP of kill switches and flags.

A kill answers after its own commit, because its answer says who already knows: so it opens its own transaction, and
repeating it is harmless, as one target has one switch.
"""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags.domain.flags import BASIS_POINTS, Flag, FlagSpec
from interlock.foundation.flags.domain.kills import TARGET_KINDS, Kill, KillScope
from interlock.foundation.flags.service import FlagService, KillService, Propagation
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, format_id, parse_id

_NAME_CHARS_MAX = 128
_PERCENT_MAX = 100
_ALLOWED_MAX = 10_000
_MOMENT_US_MAX = 253_402_300_799_000_000


class KillBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/kill-switches`."""

    scope: str
    target: str
    mode: str
    reason: str


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    """`DELETE /admin/v1/kill-switches/{id}`."""

    reason: str


class FlagBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/flags`. `state` is `on` or `off`, `rollout` percent of workspaces, `until` a date.

    Kind `beta` has `match`, with one of `header`, `parameter` and `endpoint`, and `allow`, the organizations and
    workspaces that it is open to between `from` and `until`.
    """

    name: str
    reason: str = ""
    kind: Literal["beta"] | None = None
    match: dict[Literal["header", "parameter", "endpoint"], str] | None = None
    allow: list[str] = []
    begins: str | None = msgspec.field(name="from", default=None)
    state: str | None = None
    rollout: float | None = None
    target: str | None = None
    until: str | None = None
    prerequisite: str | None = None
    variants: dict[str, Any] | None = None


class Handlers:
    """The calls, in the order of the routes."""

    def __init__(self, kills: KillService, flags: FlagService) -> None:
        self._kills = kills
        self._flags = flags

    async def list_kills(self, call: Call) -> Reply:
        """List what is on."""
        after = call.page.after
        found = await self._kills.listed(call.within, UUID(str(after[0])) if after else None, call.page.limit_plus_one)
        kept, position = call.page.cut(found, lambda kill: (str(parse_id("kill", kill.id)),))
        return call.listed([kill_json(each) for each in kept], position)

    async def turn_on(self, call: Call) -> Reply:
        """Stop something."""
        body: KillBody = call.body
        wanted = Kill(
            id="",
            organization_id=call.within.organization_id,
            scope=body.scope,
            target=body.target,
            mode=body.mode,
            reason=body.reason[:1_000],
            actor="",
            created_us=0,
        )
        kill, propagation = await self._kills.turn_on(call.within, wanted)
        return Reply(201, {**kill_json(kill), **_told(propagation)})

    async def lift(self, call: Call) -> Reply:
        """Lift a switch."""
        kill, propagation = await self._kills.lift(call.within, _id("kill", call), call.body.reason[:1_000])
        return Reply(200, {**kill_json(kill), **_told(propagation)})

    async def list_flags(self, call: Call) -> Reply:
        """List flags."""
        after = call.page.after
        found = await self._flags.listed(call.within, str(after[0]) if after else None, call.page.limit_plus_one)
        kept, position = call.page.cut(found, lambda flag: (flag.name,))
        return call.listed([flag_json(each) for each in kept], position)

    async def put_flag(self, call: Call) -> Reply:
        """Set a flag."""
        body: FlagBody = call.body
        is_beta = body.kind is not None and 0 < len(body.name) <= _NAME_CHARS_MAX
        flag = self._beta(call, body) if is_beta else asked_flag(self._flags, call, body)
        return Reply(201, flag_json(await self._flags.put_asked(call.tx, flag)))

    def _beta(self, call: Call, body: FlagBody) -> Flag:
        """Return a beta as it was asked for, not stored yet. Raises `invalid_request`."""
        pairs = list((body.match or {}).items())
        wrong = [("match", len(pairs) != 1 or not 0 < len(pairs[0][1]) <= _NAME_CHARS_MAX)]
        wrong += [("state", any((body.state, body.rollout, body.target, body.prerequisite, body.variants)))]
        wrong += [("allow", len(body.allow) > _ALLOWED_MAX)]
        for field, is_wrong in wrong:
            if is_wrong:
                raise InterlockError(
                    "invalid_request", "A beta has one `match`, and `allow` says who.", detail={"field": field}
                )
        for each in body.allow:
            _tenant(each)
        kind, value = pairs[0]
        spec = FlagSpec(
            salt=body.name,
            targets=body.allow,
            match_kind=kind,
            match_value=value,
            from_us=_moment(body.begins),
        )
        return self._flags.new(call.tx, body.name, body.reason[:1_000], spec, _moment(body.until))

    async def get_flag(self, call: Call) -> Reply:
        """Show a flag."""
        text = call.params["id"]
        try:
            identity = parse_id("flag", text)
        except MalformedIdError:
            identity = None
        flag = await self._flags.get(call.within, identity, text)
        return Reply(body=flag_json(flag), headers={"etag": f'"{flag.version}"'})

    async def delete_flag(self, call: Call) -> Reply:
        """Delete a flag."""
        return Reply(200, flag_json(await self._flags.delete(call.tx, _id("flag", call))))


def routes(kills: KillService, flags: FlagService) -> list[Route]:
    """Return the routes of kill switches and flags."""
    handlers, level = Handlers(kills, flags), Level.ORGANIZATION
    switches, path = "/admin/v1/kill-switches", "/admin/v1/flags"
    return [
        Route("GET", switches, level, handlers.list_kills, "Switches that are on.", action="admin:read",
              query=("limit", "cursor")),
        Route("POST", switches, level, handlers.turn_on, "Stop something; answers when every process knows.",
              action="kill:write", body=KillBody, status=201, codes=("not_found", "invalid_request")),
        Route("DELETE", f"{switches}/{{id}}", level, handlers.lift, "Lift a switch.", action="kill:write",
              body=ReasonBody),
        Route("GET", path, level, handlers.list_flags, "Flags.", action="admin:read", query=("limit", "cursor")),
        Route("POST", path, level, handlers.put_flag, "Set a flag; the same name replaces it.", action="admin:write",
              body=FlagBody, status=201, is_mutation=True, codes=("gate_blocked", "verdict_weight_exceeded")),
        Route("GET", f"{path}/{{id}}", level, handlers.get_flag, "A flag, by id or name.", action="admin:read"),
        Route("DELETE", f"{path}/{{id}}", level, handlers.delete_flag, "Delete a flag.", action="admin:write",
              is_mutation=True),
    ]  # fmt: skip


def asked_flag(flags: FlagService, call: Call, body: FlagBody) -> Flag:
    """Return a flag that is no beta as it was asked for, not stored yet. Raises `invalid_request`."""
    if not 0 < len(body.name) <= _NAME_CHARS_MAX:
        raise InterlockError("invalid_request", detail={"field": "name"})
    if body.match is not None or body.allow or body.begins is not None or not body.reason.strip():
        field = "match" if body.reason.strip() else "reason"
        raise InterlockError("invalid_request", "A flag has a reason, a beta a `kind`.", detail={"field": field})
    if body.state not in {None, "on", "off"}:
        raise InterlockError("invalid_request", "`state` is on or off.", detail={"field": "state"})
    percent = body.rollout or 0.0
    if not 0 <= percent <= _PERCENT_MAX:
        raise InterlockError("invalid_request", "A rollout is 0 to 100 percent.", detail={"field": "rollout"})
    spec = FlagSpec(
        salt=body.name,
        is_on=body.state == "on" and body.target is None,
        rollout_bp=round(percent * BASIS_POINTS / _PERCENT_MAX),
        targets=[_tenant(body.target)] if body.target and body.state != "off" else [],
        prerequisite=body.prerequisite,
    )
    if body.variants is not None:
        spec.variants = body.variants
    return flags.new(call.tx, body.name, body.reason[:1_000], spec, _moment(body.until))


def kill_json(kill: Kill) -> dict[str, Any]:
    """Return a switch as it is answered. Without an organization it counts for everybody."""
    kind = TARGET_KINDS.get(KillScope(kill.scope))
    is_everybodys = kill.organization_id == SYSTEM_ORGANIZATION_ID
    return {
        "id": kill.id,
        "organization_id": None if is_everybodys else format_id("org", kill.organization_id),
        "platform": is_everybodys or kill.is_of_platform,
        "scope": kill.scope,
        "target": kill.target if kind is None else format_id(kind, UUID(kill.target)),
        "mode": kill.mode,
        "reason": kill.reason,
        "actor": kill.actor,
        "epoch": kill.epoch,
        "created_at": rfc3339(kill.created_us),
    }


def flag_json(flag: Flag) -> dict[str, Any]:
    """Return a flag as it is answered."""
    spec = flag.spec
    beta = {
        "match": {spec.match_kind: spec.match_value},
        "allow": spec.targets,
        "from": None if spec.from_us is None else rfc3339(spec.from_us),
    }
    return {
        "id": format_id("flag", flag.id),
        "name": flag.name,
        "kind": flag.kind,
        "is_on": flag.spec.is_on,
        "rollout": flag.spec.rollout_bp * 100 / BASIS_POINTS,
        "targets": flag.spec.targets,
        "prerequisite": flag.spec.prerequisite,
        "variants": flag.spec.variants,
        "owner": flag.owner,
        "reason": flag.reason,
        "until": None if flag.until_us is None else rfc3339(flag.until_us),
        "version": flag.version,
        **(beta if spec.match_kind is not None else {}),
    }


def _told(propagation: Propagation) -> dict[str, Any]:
    return {
        "propagation_ms": propagation.propagation_ms,
        "acknowledged": propagation.acknowledged,
        "missing": propagation.missing,
    }


def _id(kind: str, call: Call) -> UUID:
    try:
        return parse_id(kind, call.params["id"])
    except MalformedIdError:
        raise InterlockError("not_found") from None


def _tenant(text: str) -> str:
    for kind in ("org", "ws"):
        try:
            return str(parse_id(kind, text))
        except MalformedIdError:
            continue
    raise InterlockError("invalid_request", "`target` is an organization or a workspace.", detail={"field": "target"})


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment_us = round(aware.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        moment_us = -1
    if not 0 < moment_us < _MOMENT_US_MAX:
        raise InterlockError("invalid_request", "`until` is a date.", detail={"field": "until"})
    return moment_us
