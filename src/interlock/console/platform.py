"""The platform itself in the console: its processes, its store and spool, its settings, what doctor finds.

For the platform's operator alone. Keeps nothing alive by itself: the supervisor does, and is asked.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.console.addresses import HTML
from interlock.console.exports import csv_of
from interlock.console.frame import Frame
from interlock.console.render import sent_to
from interlock.console.views import CAUTION, GO, STOP, ago
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.config import Effective
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.paths import DataDirectory, read_pid
from interlock.foundation.scope import Scope
from interlock.foundation.secrets import RotationState, SecretService
from interlock.foundation.supervisor import PlatformState
from interlock.foundation.supervisor.doctor import Finding, Verdict

SETTING_COLUMNS: Final = ("name", "value", "source", "doc")
_SERIES: Final = re.compile(r'(interlock_[a-z_]+)(?:\{(?:role|kind|pool|outcome)="([^"]*)"\})? (\S+)')
_SHOWN: Final = ("interlock_supervisor_", "interlock_store_", "interlock_telemetry_spool_", "interlock_leases_")
_TONES: Final = {Verdict.OK: GO, Verdict.WARN: CAUTION, Verdict.FAIL: STOP}
_STORE: Final = "store-0"
_KEPT_BY_NOBODY_ELSE: Final = "Only a process that is up can be restarted from here; the store is not."
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlatformParts:
    """What the page reads. `metrics` are those of all processes as text; `restart` asks the supervisor."""

    directory: DataDirectory
    settings: Sequence[Effective]
    state: Callable[[], PlatformState]
    metrics: Callable[[], Awaitable[str]]
    restart: Callable[[str], None]
    doctor: Callable[[], Awaitable[Sequence[Finding]]]
    hide: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class PlatformPages:
    """Serves the page and its forms."""

    frame: Frame
    parts: PlatformParts
    secrets: SecretService
    audit: AuditLog
    clock: Clock

    async def show(self, call: Call) -> Reply:
        """Answer processes, store, spool and the settings that are not as they come."""
        return await self._page(call)

    async def look(self, call: Call) -> Reply:
        """Answer the page with what doctor finds now."""
        return await self._page(call, findings=await self.parts.doctor())

    async def export(self, _call: Call) -> Reply:
        """Answer every setting with its source as CSV, secrets as `[set]`."""
        return csv_of("settings.csv", SETTING_COLUMNS, self._settings(everything=True))

    async def restart(self, call: Call) -> Reply:
        """Have one process drained and started anew. Raises `invalid_request`, `not_found`."""
        _require_meant(call)
        process = call.params["process"]
        up = {each["name"] for each in await self._processes() if each["may_restart"]}
        if process not in up:
            raise InterlockError("not_found", _KEPT_BY_NOBODY_ELSE)
        await self.audit.append(call.tx, AuditEntry("platform.restart", "process", process))

        async def once_written() -> Reply:
            self.parts.restart(process)
            return sent_to("/console/platform")

        # The process may be this one, and what is written must be written before it ends.
        return Reply(303, content=b"", settle=once_written)

    async def rotate(self, call: Call) -> Reply:
        """Ask for a new master key under which a worker wraps all secrets. Raises `invalid_request`, `in_use`."""
        _require_meant(call)
        await self.secrets.want_rotation(call.tx)
        return sent_to("/console/platform")

    async def _page(self, call: Call, findings: Sequence[Finding] | None = None) -> Reply:
        everything = call.query.get("settings") == "all"
        state = self.parts.state()
        async with call.store.transaction(call.within) as tx:
            rotation = await self.secrets.rotation(tx)
        values = {
            "state": state,
            "processes": await self._processes(),
            "store": await self._figures(),
            "settings": self._settings(everything=everything),
            "everything": everything,
            "findings": None if findings is None else [self._finding(each) for each in findings],
            "rotation": None if rotation is None else self._rotation(rotation),
            "may_write": isinstance(authorize(call.who, "admin:write", Level.PLATFORM), Scope),
        }
        return self.frame.page(call, "platform", values)

    async def _processes(self) -> list[dict[str, Any]]:
        """Return every process that the supervisor keeps, as it counts them and as its pid file says."""
        series = await self._series()
        restarts = series.get("interlock_supervisor_role_restarts_total", {})
        found = []
        for name, is_up in sorted(series.get("interlock_supervisor_role_up", {}).items()):
            role, _, index = name.rpartition("-")
            file = self.parts.directory.pid_file(role, int(index))
            pid, since_us = read_pid(file), _written_us(file)
            found.append({
                "name": name,
                "is_up": bool(is_up),
                "pid": pid or "-",
                "restarts": int(restarts.get(name, 0)),
                "at": None if since_us is None else rfc3339(since_us),
                "since": "-" if since_us is None else ago(since_us, self.clock.now_us()),
                "may_restart": bool(is_up) and name != _STORE,
            })  # fmt: skip
        return found

    async def _figures(self) -> list[tuple[str, str]]:
        series = await self._series()

        def one(name: str, label: str = "") -> float:
            return series.get(f"interlock_{name}", {}).get(label, 0.0)

        spool, most = one("telemetry_spool_bytes"), one("telemetry_spool_bytes_max")
        dropped = series.get("interlock_telemetry_spool_dropped_total", {})
        outcomes = series.get("interlock_store_transactions_total", {})
        pools = series.get("interlock_store_connections", {})
        refused = sum(series.get("interlock_store_pool_refused_total", {}).values())
        return [
            ("Store", "answers" if one("store_up") else "does not answer"),
            ("Connections", ", ".join(f"{count:.0f} {pool}" for pool, count in pools.items()) or "-"),
            (
                "Transactions",
                ", ".join(f"{count:,.0f} {outcome.replace('_', ' ')}" for outcome, count in outcomes.items()),
            ),
            ("Refused by a full pool", f"{refused:.0f}"),
            (
                "Spool",
                f"{spool / _MIB:.1f} of {most / _MIB:.0f} MiB, {one('telemetry_spool_pending'):.0f} stories wait",
            ),
            (
                "Dropped from the spool",
                ", ".join(f"{count:.0f} {kind}" for kind, count in dropped.items()) or "nothing",
            ),
        ]

    async def _series(self) -> dict[str, dict[str, float]]:
        """Return the values of the series that the page shows, by name and by their one label."""
        found: dict[str, dict[str, float]] = {}
        for line in (await self.parts.metrics()).splitlines():
            matched = _SERIES.fullmatch(line) if line.startswith(_SHOWN) else None
            if matched is not None:
                found.setdefault(matched[1], {})[matched[2] or ""] = float(matched[3])
        return found

    def _settings(self, *, everything: bool) -> list[dict[str, str]]:
        return [
            {"name": each.name, "value": self.parts.hide(_words(each.shown)), "source": each.source, "doc": each.doc}
            for each in self.parts.settings
            if everything or each.source != "default"
        ]

    def _finding(self, each: Finding) -> dict[str, str]:
        hide = self.parts.hide
        return {
            "verdict": str(each.verdict), "tone": _TONES[each.verdict], "name": each.name,
            "finding": hide(each.finding), "remedy": hide(each.remedy),
        }  # fmt: skip

    def _rotation(self, state: RotationState) -> dict[str, str]:
        asked_us = int(state.requested_at.timestamp() * 1_000_000)
        return {
            "state": str(state.state), "rewrapped": str(state.rewrapped), "at": rfc3339(asked_us),
            "age": ago(asked_us, self.clock.now_us()),
        }  # fmt: skip


def platform_pages(pages: PlatformPages) -> list[Route]:
    """Return the routes of the page and its forms; all of them are the operator's."""
    level = Level.PLATFORM
    return [
        Route("GET", "/console/platform", level, pages.show, "Processes, store, spool and settings.",
              action="admin:read", is_html=True, query=("settings",), media_type=HTML),
        Route("GET", "/console/platform/settings.csv", level, pages.export, "Every setting and its source as CSV.",
              action="admin:read", is_html=True, media_type="text/csv"),
        Route("POST", "/console/platform/doctor", level, pages.look, "Look for what is wrong with the machine.",
              action="admin:read", is_html=True, body_bytes_max=65_536, media_type=HTML),
        Route("POST", "/console/platform/processes/{process}/restart", level, pages.restart,
              "Drain a process and start it anew.", action="admin:write", is_html=True, is_mutation=True, status=303,
              body_bytes_max=65_536, media_type=HTML),
        Route("POST", "/console/platform/rotate-secrets", level, pages.rotate,
              "Rewrap all secrets under a new master key.", action="admin:write", is_html=True, is_mutation=True,
              status=303, body_bytes_max=65_536, media_type=HTML, codes=("in_use",)),
    ]  # fmt: skip


def _require_meant(call: Call) -> None:
    if not call.form.get("is_meant"):
        raise InterlockError("invalid_request", "This is done in two steps: say that you mean it.")


def _written_us(file: Any) -> int | None:
    try:
        return int(file.stat().st_mtime * 1_000_000)
    except OSError:
        return None


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return (
        {True: "true", False: "false"}[value]
        if isinstance(value, bool)
        else "none"
        if value in {None, ""}
        else str(value)
    )
