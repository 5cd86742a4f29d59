"""Runs, gates and incidents: the lists, a run with what its arms disagree about, a gate's lamp, an incident's way.

Changes nothing, but that a story becomes an incident; all else is done over the API or the command line. A green lamp
is only what was proved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import Sampler, as_type, form_at, page_at
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, place_of
from interlock.console.render import sent_to
from interlock.console.standing import Standing, count
from interlock.console.views import CAUTION, GO, STOP
from interlock.contracts.incidents import IncidentReport, Severity
from interlock.evals.public import Gates, Incidents, Runs, severity_of
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store

SAMPLES_READ: Final = 4_000
DISCORDANT_SHOWN: Final = 50
RUN_COLUMNS: Final = (
    "id", "state", "suite", "suite_version", "candidate_digest", "baseline_digest", "expected", "reason",
    "evidence_digest", "created_at", "ended_at",
)  # fmt: skip
GATE_COLUMNS: Final = ("id", "name", "route", "mode", "armed", "armed_reasons", "version", "policy_digest")
INCIDENT_COLUMNS: Final = (
    "id", "state", "severity", "title", "source", "detector", "route", "request_id", "occurrences", "owner", "suite",
    "case_key", "created_at", "updated_at",
)  # fmt: skip
_ROWS_SHOWN: Final = 30
STANDING_ROWS: Final = 50
_TEXT_CHARS_MAX: Final = 4_000
_HOUR_S: Final = 3_600.0
_RUN_TONES: Final = {"failed": STOP, "canceled": STOP, "running": CAUTION, "canceling": CAUTION}
_VERDICT_TONES: Final = {"PASS": GO, "FAIL": STOP, "INCONCLUSIVE": CAUTION}
_INCIDENT_TONES: Final = {
    "open": STOP, "triaged": CAUTION, "reproduced": CAUTION, "guarded": CAUTION, "closed": GO,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvalPages:
    """Serves the pages of runs, gates and incidents."""

    frame: Frame
    store: Store
    runs: Runs
    gates: Gates
    incidents: Incidents
    clock: Clock

    async def show_runs(self, call: Call) -> Reply:
        """Answer the list of runs. Raises `invalid_cursor`."""
        page = call.page
        before = UUID(page.after[0]) if page.after else None
        found = await self.runs.page(call.within, None, before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(parse_id("run", each["id"])),))
        values = {"runs": [{**each, "tone": run_tone(each)} for each in kept]}
        return self._listed(call, "eval_runs", "/console/evals", position, values)

    async def export_runs(self, call: Call) -> Reply:
        """Answer the runs as CSV, newest first."""

        async def read(before: UUID | None, limit: int) -> list[dict[str, Any]]:
            return await self.runs.page(call.within, None, before, limit)

        rows = await all_rows(read, None, lambda each: parse_id("run", each["id"]), self.frame.csv_rows_max)
        return csv_of("evals.csv", RUN_COLUMNS, rows)

    async def show_run(self, call: Call) -> Reply:
        """Answer one run with what its arms disagree about. Raises `not_found`."""
        run = await self.runs.show(call.within, call.params["id"])
        samples = await self.runs.results(call.within, call.params["id"], SAMPLES_READ + 1)
        told = [_sample(row) for row in samples[:SAMPLES_READ]]
        values = {
            "run": run,
            "tone": run_tone(run),
            "sentence": run_sentence(run),
            "is_open": run["state"] in {"queued", "running", "canceling"},
            "discordant": discordant(told)[:DISCORDANT_SHOWN],
            "failed": failing(told)[:DISCORDANT_SHOWN],
            "slices": by_slice(told),
            "is_cut": len(samples) > SAMPLES_READ,
        }
        return self.frame.page(call, "eval_run", values)

    async def show_gates(self, call: Call) -> Reply:
        """Answer the list of gates. Raises `invalid_cursor`."""
        page = call.page
        found = await self.gates.page(call.within, page.after[0] if page.after else "", page.limit_plus_one)
        kept, position = page.cut(found, lambda gate: (gate["name"],))
        values = {"gates": [{**each, "lamp": lamp(each)} for each in kept]}
        return self._listed(call, "gates", "/console/gates", position, values)

    async def export_gates(self, call: Call) -> Reply:
        """Answer the gates as CSV, each with why it is not armed."""
        read = partial(self.gates.page, call.within)
        rows = await all_rows(read, "", lambda each: str(each["name"]), self.frame.csv_rows_max)
        told = [{**each, "armed_reasons": "; ".join(each["armed_reasons"])} for each in rows]
        return csv_of("gates.csv", GATE_COLUMNS, told)

    async def show_gate(self, call: Call) -> Reply:
        """Answer one gate. Raises `not_found`."""
        shown, verdicts = await self.gates.looked_into(call.within, call.params["id"], _ROWS_SHOWN)
        now_us = self.clock.now_us()
        values = {
            "gate": shown,
            "lamp": lamp(shown),
            "sentence": gate_sentence(shown),
            "controls": [{**each, "age": age_words(each["at"], now_us)} for each in shown["controls"]],
            "verdicts": [{**each, "tone": verdict_tone(each), "why": verdict_why(each)} for each in verdicts],
        }
        return self.frame.page(call, "gate", values)

    async def show_incidents(self, call: Call) -> Reply:
        """Answer the list of incidents. Raises `invalid_cursor`."""
        page = call.page
        before = UUID(page.after[0]) if page.after else None
        found = await self.incidents.page(call.within, None, before, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(parse_id("inc", each["id"])),))
        values = {"incidents": [{**each, "tone": _INCIDENT_TONES.get(each["state"], "")} for each in kept]}
        return self._listed(call, "incidents", "/console/incidents", position, values)

    async def export_incidents(self, call: Call) -> Reply:
        """Answer the incidents as CSV, newest first."""

        async def read(before: UUID | None, limit: int) -> list[dict[str, Any]]:
            return await self.incidents.page(call.within, None, before, limit)

        rows = await all_rows(read, None, lambda each: parse_id("inc", each["id"]), self.frame.csv_rows_max)
        return csv_of("incidents.csv", INCIDENT_COLUMNS, rows)

    async def show_incident(self, call: Call) -> Reply:
        """Answer one incident with its timeline. Raises `not_found`."""
        async with self.store.transaction(call.within) as tx:
            incident = await self.incidents.show(tx, call.params["id"])
        asked = (incident["input"] or {}).get("messages") or []
        values = {
            "incident": incident,
            "tone": _INCIDENT_TONES.get(incident["state"], ""),
            "sentence": incident_sentence(incident),
            "messages": [{"role": each.get("role"), "content": _cut(each.get("content"))} for each in asked],
        }
        return self.frame.page(call, "incident", values)

    async def open_incident(self, call: Call) -> Reply:
        """Open an incident that names a request, and go to it. Raises `invalid_request`."""
        form = call.form
        try:
            request_id = format_id("req", parse_id("req", form.get("request_id", "")))
        except (MalformedIdError, IndexError) as error:
            raise InterlockError("invalid_request", "This is no id of a request.") from error
        report = IncidentReport(
            title=form.get("title", "").strip(),
            severity=severity_of(form.get("severity", "")),
            source="console",
            detector="",
            request_id=request_id,
            route=form.get("route") or None,
            text=form.get("text", "").strip()[:_TEXT_CHARS_MAX] or None,
        )
        found = await self.incidents.open(call.tx, report, None)
        return sent_to(f"/console/incidents/{found['id']}")

    async def gates_standing(self, scope: Scope) -> Standing:
        """Tell which required gates cannot judge."""
        shown = await self.gates.page(scope, "", STANDING_ROWS)
        if not shown:
            return Standing("", "none yet")
        unarmed = sum(not each["armed"] and each["mode"] == "required" for each in shown)
        if unarmed:
            return Standing(CAUTION, f"{unarmed:,} of {len(shown):,} required and not armed: nothing passes there")
        return Standing(GO, f"{sum(each['armed'] for each in shown):,} of {len(shown):,} armed")

    async def incidents_standing(self, scope: Scope) -> Standing:
        """Tell which incidents nobody has taken on yet."""
        found = await self.incidents.page(scope, "open", None, STANDING_ROWS)
        if not found:
            return Standing(GO, "none is open")
        worst = min(str(each["severity"]) for each in found)
        tone = STOP if worst == Severity.SEV1 else CAUTION
        return Standing(tone, f"{count(len(found), 'is', 'are')} open that nobody has taken on, up to {worst}")

    def _listed(
        self, call: Call, here: str, path: str, position: tuple[Any, ...] | None, values: Mapping[str, Any]
    ) -> Reply:
        cursor = call.listed([], position).body["next_cursor"]
        around = {
            "place": place_of(call.within),
            "next_url": None if cursor is None else f"{path}?cursor={cursor}",
            "is_first_page": not call.page.after,
        }
        return self.frame.page(call, here, {**around, **values})

    @property
    def samplers(self) -> dict[str, Sampler]:
        """What the list of screens may show: the newest run and incident, the first gate."""

        async def run(scope: Scope) -> str | None:
            found = await self.runs.page(scope, None, None, 1)
            return str(found[0]["id"]) if found else None

        async def gate(scope: Scope) -> str | None:
            found = await self.gates.page(scope, "", 1)
            return str(found[0]["id"]) if found else None

        async def incident(scope: Scope) -> str | None:
            found = await self.incidents.page(scope, None, None, 1)
            return str(found[0]["id"]) if found else None

        return {"eval_run": run, "gate": gate, "incident": incident}


def eval_pages(pages: EvalPages) -> list[Route]:
    """Return the routes of the pages."""
    action, codes = "evals:read", ("invalid_cursor",)
    return [
        page_at("/evals", pages.show_runs, "Runs, newest first.", ("cursor",), action=action, codes=codes),
        as_type(page_at("/evals.csv", pages.export_runs, "Runs as CSV.", action=action), "text/csv"),
        page_at("/evals/{id}", pages.show_run, "One run with what its arms disagree about.", action=action),
        page_at("/gates", pages.show_gates, "Gates by name.", ("cursor",), action=action, codes=codes),
        as_type(page_at("/gates.csv", pages.export_gates, "Gates as CSV.", action=action), "text/csv"),
        page_at("/gates/{id}", pages.show_gate, "One gate with controls and verdicts.", action=action),
        page_at(
            "/incidents", pages.show_incidents, "Incidents, newest first.", ("cursor",), action=action, codes=codes
        ),
        as_type(page_at("/incidents.csv", pages.export_incidents, "Incidents as CSV.", action=action), "text/csv"),
        form_at("/incidents", pages.open_incident, "Open an incident about a request.", action="incidents:write"),
        page_at("/incidents/{id}", pages.show_incident, "One incident with its timeline.", action=action),
    ]


def run_tone(run: Mapping[str, Any]) -> str:
    """Return the signal of a run: green only for one that is whole and in which all passed; a run judges nobody."""
    if run["state"] == "complete":
        completeness = run["completeness"] or {}
        fails = sum((arm or {}).get("fail", 0) for arm in (run["arms"] or {}).values())
        whole = GO if not fails else ""
        return whole if completeness.get("complete") else CAUTION
    return _RUN_TONES.get(run["state"], "")


def run_sentence(run: Mapping[str, Any]) -> str:
    """Tell what a run came to."""
    done = run["completeness"] or {"scored": 0, "errored": 0, "missing": run["expected"], "complete": False}
    what = f"{run['suite']} version {run['suite_version']}"
    if run["state"] != "complete":
        return f"{what} is {run['state']}: {done['scored']} of {run['expected']} results are scored."
    if not done["complete"]:
        lacking = done["errored"] + done["missing"]
        return f"{what} is over, and {lacking} of {run['expected']} results are missing: it passes nothing."
    paired = run["paired"]
    if paired is None:
        arm = run["arms"]["candidate"]
        return f"{what}: {arm['pass']} of {arm['n']} results pass."
    low, high = paired["ci_pp"] or (None, None)
    bounds = "" if low is None else f" (between {low:.1f} and {high:.1f})"
    return f"{what}: the candidate differs by {paired['diff_pp']:+.1f} points{bounds} over {paired['n']} cases."


def discordant(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the cases and epochs on which the arms disagree, both outputs side by side; losses first."""
    arms: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for each in samples:
        arms.setdefault((each["key"], each["epoch"]), {})[each["arm"]] = each
    found = [
        {"key": key, "epoch": epoch, "candidate": pair["candidate"], "baseline": pair["baseline"]}
        for (key, epoch), pair in arms.items()
        if len(pair) == 2 and pair["candidate"]["outcome"] != pair["baseline"]["outcome"]
    ]
    return sorted(found, key=lambda each: (each["candidate"]["outcome"] == "pass", each["key"], each["epoch"]))


def failing(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what the candidate answered and did not pass with."""
    return [each for each in samples if each["arm"] == "candidate" and each["outcome"] != "pass" and each["text"]]


def by_slice(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return passes and results of each slice in both arms."""
    found: dict[str, dict[str, list[int]]] = {}
    for each in samples:
        for name in each["slices"]:
            arms = found.setdefault(name, {"candidate": [0, 0], "baseline": [0, 0]})
            arms[each["arm"]][0] += each["outcome"] == "pass"
            arms[each["arm"]][1] += 1
    return [{"slice": name, **arms} for name, arms in sorted(found.items())]


def lamp(gate: Mapping[str, Any]) -> dict[str, str]:
    """Return the lamp of a gate: green only where it is armed, else what is missing."""
    if gate["armed"]:
        return {"tone": GO, "word": "armed"}
    return {"tone": CAUTION, "word": "not armed"}


def gate_sentence(gate: Mapping[str, Any]) -> str:
    """Tell what stands in front of the route."""
    route = gate["route"]
    if not gate["armed"]:
        missing = gate["armed_reasons"][0] if gate["armed_reasons"] else "its controls have not run"
        return f"{gate['name']} is not armed and lets nothing through: {missing}."
    if gate["mode"] == "required":
        return f"No version of {route} takes weight without a live verdict of this gate."
    return f"{gate['name']} judges versions of {route} and is advisory: it blocks nothing."


def verdict_tone(verdict: Mapping[str, Any]) -> str:
    """Return the signal of a verdict: green only while it admits."""
    if verdict["verdict"] == "PASS" and not verdict["is_live"]:
        return ""
    return _VERDICT_TONES[verdict["verdict"]]


def verdict_why(verdict: Mapping[str, Any]) -> str:
    """Return the reasons of the checks that came to what the whole verdict came to; all reasons where none did."""
    deciding = {each["name"] for each in verdict["checks"] if each["verdict"] == verdict["verdict"]}
    texts = [str(each["text"]) for each in verdict["reasons"] if each.get("check") in deciding]
    return " ".join(texts or [str(each["text"]) for each in verdict["reasons"]]) or "-"


def incident_sentence(incident: Mapping[str, Any]) -> str:
    """Tell how far an incident is on its way to a test."""
    times = "once" if incident["occurrences"] == 1 else f"{incident['occurrences']} times"
    said = {
        "open": "nobody has taken it on yet",
        "triaged": f"{incident['owner'] or 'somebody'} has taken it on",
        "reproduced": "it was made to happen again",
        "guarded": f"the case {incident['case_key']} of {incident['suite']} is its test",
        "closed": f"a required gate asks for the case {incident['case_key']} of {incident['suite']}",
        "dismissed": "it was found to be none",
    }
    return f"Reported {times}; {said.get(incident['state'], incident['state'])}."


def age_words(moment: str, now_us: int) -> str:
    """Return how old something is."""
    hours = (now_us / 1e6 - datetime.fromisoformat(moment).timestamp()) / _HOUR_S
    return "under 1 h" if hours < 1 else f"{hours:.0f} h"


def _sample(result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result, "text": _cut((result["output"] or {}).get("text")), "asked": _cut(result["asked"])}


def _cut(text: Any) -> str:
    told = text if isinstance(text, str) else "" if text is None else str(text)
    return told if len(told) <= _TEXT_CHARS_MAX else f"{told[:_TEXT_CHARS_MAX]} ..."
