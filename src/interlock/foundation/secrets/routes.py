"""HTTP of secrets: set, list, remove, rotate. No call answers a value.

Works with the public half alone.
"""

from typing import Any, Final

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.ids import format_id
from interlock.foundation.secrets.service import WHOLE_ORGANIZATION, RotationState, SecretRecord, SecretService

_PATH: Final = "/admin/v1/secrets"
# Whoever keeps an opened secret opens it anew when this topic changes.
_TOPIC: Final = "secrets"


class SecretBody(msgspec.Struct, forbid_unknown_fields=True):
    """The value to keep."""

    value: str


class SecretView(msgspec.Struct):
    """A secret without its value."""

    id: str
    name: str
    workspace_id: str | None
    last4: str
    kek_id: str
    version: int
    created_at: str
    updated_at: str


class SecretList(msgspec.Struct):
    """A page of secrets."""

    data: list[SecretView]
    next_cursor: str | None


class RotationView(msgspec.Struct):
    """The newest rotation of the master key."""

    state: str
    kek_id: str | None
    rewrapped: int
    requested_at: str
    finished_at: str | None


class SecretHandlers:
    """One method a call."""

    def __init__(self, service: SecretService) -> None:
        self._service = service

    async def put(self, call: Call) -> Reply:
        """Set a value."""
        body: SecretBody = call.body
        stored = await self._service.set(call.tx, call.params["name"], body.value)
        await bump(call.tx, _TOPIC)
        return Reply(body=view(stored))

    async def names(self, call: Call) -> Reply:
        """Answer a page of what is set."""
        page = call.page
        rows = await self._service.names(call.store, call.within, page.limit_plus_one, page.after)
        kept, after = page.cut(rows, lambda row: (row.workspace_id or WHOLE_ORGANIZATION, row.name))
        return call.listed([view(row) for row in kept], after)

    async def remove(self, call: Call) -> Reply:
        """Forget a secret."""
        await self._service.remove(call.tx, call.params["name"])
        await bump(call.tx, _TOPIC)
        return Reply(status=204)

    async def rotate(self, call: Call) -> Reply:
        """Ask for a rotation; a worker does it."""
        return Reply(status=202, body=_rotation_view(await self._service.want_rotation(call.tx)))

    async def rotation(self, call: Call) -> Reply:
        """Answer how far the newest rotation is."""
        async with call.store.transaction(call.within) as tx:
            state = await self._service.rotation(tx)
        if state is None:
            raise InterlockError("not_found")
        return Reply(body=_rotation_view(state))


def routes(service: SecretService) -> list[Route]:
    """Return the routes of secrets."""
    handlers = SecretHandlers(service)
    organization, platform = Level.ORGANIZATION, Level.PLATFORM
    return [
        Route(
            "GET", _PATH, organization, handlers.names, "Secrets that are set, without their values.",
            action="admin:read", answer=SecretList, query=("limit", "cursor", "workspace_id"),
        ),
        Route(
            "PUT", f"{_PATH}/{{name}}", organization, handlers.put, "Set the value of a secret.",
            action="admin:write", body=SecretBody, answer=SecretView, is_mutation=True, query=("workspace_id",),
        ),
        Route(
            "DELETE", f"{_PATH}/{{name}}", organization, handlers.remove, "Forget a secret.",
            action="admin:write", status=204, is_mutation=True, query=("workspace_id",),
        ),
        Route(
            "POST", f"{_PATH}/rotate", platform, handlers.rotate, "Rewrap all secrets under a new master key.",
            action="admin:write", answer=RotationView, status=202, is_mutation=True, codes=("in_use",),
        ),
        Route(
            "GET", f"{_PATH}/rotate", platform, handlers.rotation, "The newest rotation.",
            action="admin:read", answer=RotationView,
        ),
    ]  # fmt: skip


def view(record: SecretRecord) -> SecretView:
    """Return the object of lists and answers."""
    return SecretView(
        id=format_id("sec", record.id),
        name=record.name,
        workspace_id=None if record.workspace_id is None else format_id("ws", record.workspace_id),
        last4=record.last4,
        kek_id=record.kek_id,
        version=record.version,
        created_at=_time(record.created_at),
        updated_at=_time(record.updated_at),
    )


def _rotation_view(state: RotationState) -> RotationView:
    return RotationView(
        state=state.state,
        kek_id=state.kek_id,
        rewrapped=state.rewrapped,
        requested_at=_time(state.requested_at),
        finished_at=None if state.finished_at is None else _time(state.finished_at),
    )


def _time(moment: Any) -> str:
    return rfc3339(int(moment.timestamp() * 1_000_000))
