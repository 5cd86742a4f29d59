"""Flags in the console: what each is right now, and the forms that make one, flip one and delete one, with a reason.

Stops nothing: what must stop at once is a kill switch, which the page shows first and another page turns on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from interlock.console.addresses import HTML, as_type, page_at
from interlock.console.config import ConsoleConfig
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, visible_kills
from interlock.console.render import sent_to
from interlock.console.views import CAUTION, GO
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import BASIS_POINTS, BETA, Flag, FlagBody, FlagService, asked_flag
from interlock.foundation.identity import authorize
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope

CSV_COLUMNS: Final = (
    "id", "name", "kind", "state", "rollout_percent", "targets", "prerequisite", "until", "owner", "reason", "version",
)  # fmt: skip
STATES: Final = {"off": "off for everybody but its targets", "on": "on for everybody", "rollout": "on for a share"}
_KILLS_SHOWN: Final = 5
_VERSION_DIGITS_MAX: Final = 18


@dataclass(frozen=True, slots=True)
class FlagPages:
    """Serves the page of flags and its forms."""

    frame: Frame
    flags: FlagService
    clock: Clock
    config: ConsoleConfig

    async def show(self, call: Call) -> Reply:
        """Answer the switches that are on, then the flags by name. Raises `invalid_cursor`."""
        page = call.page
        after = str(page.after[0]) if page.after else None
        found = await self.flags.listed(call.within, after, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each.name,))
        cursor = call.listed([], position).body["next_cursor"]
        kills = visible_kills(self.frame.kills.kills, call.who)
        values = {
            "flags": [self._row(each) for each in kept],
            "switches_on": kills[:_KILLS_SHOWN],
            "switches_more": max(0, len(kills) - _KILLS_SHOWN),
            "states": STATES,
            "may_write": isinstance(authorize(call.who, "admin:write", Level.ORGANIZATION), Scope),
            "is_first_page": not page.after,
            "next_url": None if cursor is None else f"/console/flags?{urlencode({'cursor': cursor})}",
        }
        return self.frame.page(call, "flags", values)

    async def export(self, call: Call) -> Reply:
        """Answer the flags as CSV."""
        read = partial(self.flags.listed, call.within)
        found = await all_rows(read, None, lambda each: each.name, self.config.csv_rows_max)
        return csv_of("flags.csv", CSV_COLUMNS, [self._exported(each) for each in found])

    async def create(self, call: Call) -> Reply:
        """Make a flag. Raises `invalid_request`, `name_taken` where there is one of this name."""
        asked = self._asked(call, call.form.get("name", "").strip(), call.form.get("target", "").strip() or None)
        try:
            await self.flags.get(call.within, None, asked.name)
        except InterlockError as error:
            if error.code != "not_found":
                raise
            await self.flags.put_asked(call.tx, asked)
            return sent_to("/console/flags")
        raise InterlockError("name_taken", detail={"name": asked.name})

    async def flip(self, call: Call) -> Reply:
        """Change what a flag is, who it reaches besides, and until when. Its targets and variants stay.

        Raises `not_found`, `invalid_request`, and `version_conflict` where somebody else was quicker.
        """
        found = await self._flag(call)
        text = call.form.get("version", "")
        if not (text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS_MAX and int(text) == found.version):
            raise InterlockError("version_conflict", detail={"version": found.version})
        asked = self._asked(call, found.name, None)
        asked.spec = msgspec.structs.replace(found.spec, is_on=asked.spec.is_on, rollout_bp=asked.spec.rollout_bp)
        asked.kind = found.kind
        await self.flags.put_asked(call.tx, asked)
        return sent_to("/console/flags")

    async def delete(self, call: Call) -> Reply:
        """Delete a flag: whoever asks for it gets the default of the code. Raises `not_found`."""
        await self.flags.delete(call.tx, (await self._flag(call)).id)
        return sent_to("/console/flags")

    def _asked(self, call: Call, name: str, target: str | None) -> Flag:
        form = call.form
        state = form.get("state", "")
        if state not in STATES:
            raise InterlockError("invalid_request", "A flag is on, off or rolled out.", detail={"field": "state"})
        body = FlagBody(
            name=name,
            reason=form.get("reason", ""),
            state=None if state == "rollout" else state,
            rollout=_percent(form) if state == "rollout" else None,
            # A flag that is made for one target is off for all others, which `asked_flag` takes for none.
            target=None,
            until=form.get("until", "").strip() or None,
        )
        flag = asked_flag(self.flags, call, body)
        if target is not None:
            reached = asked_flag(self.flags, call, FlagBody(name=name, reason=body.reason, state="on", target=target))
            flag.spec = msgspec.structs.replace(flag.spec, targets=reached.spec.targets)
        return flag

    async def _flag(self, call: Call) -> Flag:
        """Return the flag that the path names; betas have no state to flip here. Raises `not_found`."""
        try:
            identity = parse_id("flag", call.params["id"])
        except MalformedIdError:
            raise InterlockError("not_found") from None
        found = await self.flags.get(call.within, identity, "")
        if found.kind == BETA and "state" in call.form:
            raise InterlockError("invalid_request", "A beta is open to its list; it is set over the API.")
        return found

    def _row(self, flag: Flag) -> dict[str, Any]:
        spec, now_us = flag.spec, self.clock.now_us()
        is_over = flag.until_us is not None and flag.until_us <= now_us
        percent = spec.rollout_bp * 100 / BASIS_POINTS
        state = "on" if spec.is_on else "rollout" if spec.rollout_bp else "off"
        word = (
            "expired" if is_over else BETA if flag.kind == BETA else f"{percent:g} %" if state == "rollout" else state
        )
        tone = CAUTION if is_over or state == "rollout" or flag.kind == BETA else GO if state == "on" else ""
        return {
            "id": format_id("flag", flag.id),
            "name": flag.name,
            "kind": flag.kind,
            "is_beta": flag.kind == BETA,
            "is_everybodys": flag.organization_id == SYSTEM_ORGANIZATION_ID,
            "state": state,
            "word": word,
            "tone": tone,
            "percent": f"{percent:g}",
            "targets": [_target(each) for each in spec.targets],
            "prerequisite": spec.prerequisite or "",
            "until": "" if flag.until_us is None else rfc3339(flag.until_us)[:10],
            "owner": flag.owner,
            "reason": flag.reason,
            "version": flag.version,
        }

    def _exported(self, flag: Flag) -> dict[str, Any]:
        row = self._row(flag)
        return {**row, "state": row["word"], "rollout_percent": row["percent"], "targets": tuple(row["targets"])}


def flag_pages(pages: FlagPages) -> list[Route]:
    """Return the routes of the page and its forms."""
    reading = [
        page_at("/flags", pages.show, "Flags, after the switches that are on.", ("cursor",), action="admin:read",
                codes=("invalid_cursor",)),
        as_type(page_at("/flags.csv", pages.export, "The flags as CSV.", action="admin:read"), "text/csv"),
    ]  # fmt: skip
    return [
        *(replace(route, level=Level.ORGANIZATION) for route in reading),
        _form("/flags", pages.create, "Make a flag.", "name_taken"),
        _form("/flags/{id}", pages.flip, "Turn a flag on, off, or to a share of the workspaces.", "version_conflict"),
        _form("/flags/{id}/delete", pages.delete, "Delete a flag."),
    ]


def _form(path: str, handler: Handler, summary: str, *codes: str) -> Route:
    return Route("POST", f"/console{path}", Level.ORGANIZATION, handler, summary, action="admin:write", is_html=True,
                 is_mutation=True, status=303, body_bytes_max=65_536, media_type=HTML,
                 codes=("gate_blocked", "verdict_weight_exceeded", *codes))  # fmt: skip


def _target(text: str) -> str:
    """Return a target as its list has it: betas keep ids as they were given."""
    return text if "_" in text else f"…{text[-8:]}"


def _percent(form: Mapping[str, str]) -> float:
    try:
        return float(form.get("rollout", "").replace("%", "").strip())
    except ValueError:
        raise InterlockError("invalid_request", "A rollout is 0 to 100 percent.", detail={"field": "rollout"}) from None
