"""Keys: the list, and forms that create, rotate and revoke.

Holds no key: the text of a new one goes into one page, once, and is neither stored nor shown again.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from interlock.console.config import ConsoleConfig
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame
from interlock.console.render import sent_to
from interlock.console.views import CAUTION, GO, STOP, ago
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService, KeyService, KeyWanted, authorize
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope

# What the form offers; other scopes are given by the API.
OFFERED: Final = (
    ("inference", "call models"),
    ("requests:read", "read stories"),
    ("console", "sign in here"),
    ("admin:read", "see keys, limits, members"),
    ("admin:write", "change them"),
    ("audit:read", "read the audit chain"),
    ("metrics:read", "read metrics"),
    ("kill:write", "flip kill switches"),
)
OVERLAP_S: Final = 86_400
LIFETIMES_S: Final = {"never": None, "1 day": 86_400, "30 days": 2_592_000, "90 days": 7_776_000, "1 year": 31_536_000}
CSV_COLUMNS: Final = (
    "id", "name", "state", "last4", "workspace", "scopes", "models", "cidrs", "last_used", "expires",
)  # fmt: skip
_WORKSPACES_MAX: Final = 200
_NAME_CHARS_MAX: Final = 128
_START: Final = UUID(int=0)
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One line of the list."""

    id: str
    name: str
    state: str
    tone: str
    last4: str
    workspace: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    cidrs: tuple[str, ...]
    last_used: str
    last_used_at: str | None
    expires: str
    is_live: bool


@dataclass(frozen=True, slots=True)
class Keys:
    """Serves the pages."""

    frame: Frame
    identity: IdentityService
    keys: KeyService
    clock: Clock
    config: ConsoleConfig

    async def show(self, call: Call) -> Reply:
        """Answer the list, newest last as they were made."""
        page = call.page
        rows = await self.keys.listed(call.within, UUID(str(page.after[0])) if page.after else _START, page.limit + 1)
        kept, position = page.cut(rows, lambda each: (str(each["id"]),))
        now_us = self.clock.now_us()
        next_url = None
        if position is not None and call.cursors is not None:
            cursor = call.cursors.issue(call.route, call.within, position)
            next_url = f"/console/keys?{urlencode({'cursor': cursor})}"
        values = {
            "keys": [key_row(each, now_us) for each in kept],
            "next_url": next_url,
            "is_first_page": page.after is None,
            "may_write": isinstance(authorize(call.who, "admin:write", Level.ORGANIZATION), Scope),
            "workspaces": await self._workspaces(call.within),
            "scopes": OFFERED,
            "lifetimes": list(LIFETIMES_S),
        }
        return self.frame.page(call, "keys", values)

    async def export(self, call: Call) -> Reply:
        """Answer all keys as CSV, without their secrets."""
        read = partial(self.keys.listed, call.within)
        rows = await all_rows(read, _START, lambda each: UUID(str(each["id"])), self.config.csv_rows_max)
        now_us = self.clock.now_us()
        return csv_of("keys.csv", CSV_COLUMNS, [asdict(key_row(each, now_us)) for each in rows])

    async def create(self, call: Call) -> Reply:
        """Make a key and show it. Raises `invalid_request`, `role_denied`, `not_found`."""
        row, text = await self.keys.create(call.tx, wanted_of(call.form, self.clock.now_us()))
        return self._made(call, row, text, None)

    async def rotate(self, call: Call) -> Reply:
        """Replace a key by one with the same rights and show that; the old one goes on for a day."""
        row, text = await self.keys.rotate(call.tx, call.params["id"], OVERLAP_S)
        return self._made(call, row, text, call.params["id"])

    async def revoke(self, call: Call) -> Reply:
        """Revoke a key and go back to the list."""
        await self.keys.revoke(call.tx, call.params["id"])
        return sent_to("/console/keys")

    def _made(self, call: Call, row: Any, text: str, replaced: str | None) -> Reply:
        values = {"key": key_row(row, self.clock.now_us()), "text": text, "replaced": replaced}
        return self.frame.page(call, "keys", values, 201, template="key_made.html")

    async def _workspaces(self, scope: Scope) -> list[dict[str, str]]:
        rows = await self.identity.listed(scope, "workspace", _START, _WORKSPACES_MAX)
        return [{"id": format_id("ws", each["id"]), "name": each["name"]} for each in rows]


def wanted_of(form: Any, now_us: int) -> KeyWanted:
    """Return what the form asks for. Raises `invalid_request`."""
    name = form.get("name", "").strip()
    if not 0 < len(name) <= _NAME_CHARS_MAX:
        raise InterlockError("invalid_request", f"A key has a name of 1 to {_NAME_CHARS_MAX} characters.")
    lifetime = form.get("lifetime", "never")
    if lifetime not in LIFETIMES_S:
        raise InterlockError("invalid_request", "This lifetime is not known.", detail={"field": "lifetime"})
    lifetime_s = LIFETIMES_S[lifetime]
    return KeyWanted(
        workspace=form.get("workspace_id", ""),
        name=name,
        scopes=tuple(scope for scope, _ in OFFERED if form.get(f"scope_{scope}")),
        models=_words(form.get("models", "")) or ("*",),
        cidrs=_words(form.get("cidrs", "")),
        expires_us=None if lifetime_s is None else now_us + lifetime_s * 1_000_000,
    )


def key_row(row: Any, now_us: int) -> KeyRow:
    """Return the line of a key as seen at `now_us`."""
    state, tone = _state(row, now_us)
    used_us = row.get("last_used_us")
    return KeyRow(
        id=format_id("key", row["id"]),
        name=row["name"],
        state=state,
        tone=tone,
        last4=row["last4"],
        workspace=row.get("workspace_name") or format_id("ws", row["workspace_id"]),
        scopes=tuple(row["scopes"]),
        models=tuple(row["models"]),
        cidrs=tuple(row["cidrs"]),
        last_used="never" if used_us is None else ago(used_us, now_us),
        last_used_at=None if used_us is None else rfc3339(used_us),
        expires="never" if row["expires_us"] is None else rfc3339(row["expires_us"])[:10],
        is_live=state in {"live", "replaced"},
    )


def _state(row: Any, now_us: int) -> tuple[str, str]:
    if row["revoked_us"] is not None:
        return "revoked", STOP
    expires_us = row["expires_us"]
    if expires_us is not None and expires_us <= now_us:
        return "expired", STOP
    if row["replaced_by"] is not None:
        return "replaced", CAUTION
    if expires_us is not None and expires_us - now_us < 7 * _DAY_US:
        return "live", CAUTION
    return "live", GO


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())
