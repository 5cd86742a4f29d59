"""Crawls: the list, one with its hosts and what was refused, why a URL is or is not there, and an operator's hosts.

Changes nothing; a crawl is moved over the API or the command line. Strangers' words reach a page escaped and cut.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import HTML, Sampler, as_type, page_at
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, place_of
from interlock.console.standing import Standing
from interlock.console.views import CAUTION, GO, STOP
from interlock.crawler import Explain, HostStates, ReadCrawls, crawl_host_view, crawl_id_of, crawl_view, host_view, safe
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope

CSV_COLUMNS: Final = (
    "id", "name", "state", "reason", "source_id", "created_at", "finished_at", "discovered", "queued", "leased", "done",
    "duplicate", "refused", "dead", "gone", "documents", "tombstones", "bytes_wire", "bytes_body",
)  # fmt: skip
HOSTS_SHOWN: Final = 100
STANDING_ROWS: Final = 100
URL_CHARS_MAX: Final = 2_048
_LINES_AROUND: Final = 3
_LIVE: Final = frozenset({"running", "throttled", "deleting"})
_TONES: Final = {"running": GO, "finished": GO, "throttled": CAUTION, "paused": CAUTION, "failed": STOP}
_VERDICTS: Final = {
    "fetched": GO,
    "waiting": CAUTION,
    "duplicate": CAUTION,
    "refused": STOP,
    "dead": STOP,
    "gone": STOP,
}
_HOST_TONES: Final = {"due": GO, "waiting": "", "slow": CAUTION, "open": STOP, "blocked": STOP}
_RESTING: Final = ("done", "duplicate", "refused", "dead", "gone")


@dataclass(frozen=True, slots=True)
class CrawlPages:
    """Serves the pages of crawls."""

    frame: Frame
    reading: ReadCrawls
    explain: Explain
    states: HostStates

    async def show(self, call: Call) -> Reply:
        """Answer the list. Raises `invalid_cursor`."""
        page = call.page
        rows = await self.reading.listed(call.within, page.limit_plus_one, UUID(page.after[0]) if page.after else None)
        kept, position = page.cut(rows, lambda row: (row["crawl_id"],))
        cursor = call.listed([], position).body["next_cursor"]
        values = {
            "place": place_of(call.within),
            "crawls": [self._told(crawl_view(row)) for row in kept],
            "next_url": None if cursor is None else f"/console/crawls?cursor={cursor}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "crawls", values)

    async def export(self, call: Call) -> Reply:
        """Answer the crawls as CSV, newest first."""

        async def read(before: UUID | None, limit: int) -> Sequence[Any]:
            return await self.reading.listed(call.within, limit, before)

        rows = await all_rows(read, None, lambda row: UUID(str(row["crawl_id"])), self.frame.csv_rows_max)
        crawls = map(crawl_view, rows)
        return csv_of("crawls.csv", CSV_COLUMNS, ({**each, **each["counts"]} for each in crawls))

    async def standing(self, scope: Scope) -> Standing:
        """Tell what the newest crawls do."""
        states = Counter(str(row["state"]) for row in await self.reading.listed(scope, STANDING_ROWS, None))
        said = [f"{states[each]:,} {each}" for each in ("running", "throttled", "paused", "finished") if states[each]]
        if not said:
            return Standing("", "none yet")
        return Standing(CAUTION if states["throttled"] else GO, ", ".join(said))

    async def one(self, call: Call) -> Reply:
        """Answer one crawl. Raises `crawl_not_found`."""
        crawl_id = crawl_id_of(call)
        crawl = crawl_view(await self.reading.one(call.within, crawl_id))
        hosts = await self.reading.hosts(call.within, crawl_id, None, HOSTS_SHOWN + 1)
        refusals = await self.reading.reasons(call.within, crawl_id)
        values = {
            "crawl": self._told(crawl),
            "sentence": sentence(crawl),
            "is_live": crawl["state"] in _LIVE,
            "hosts": [_host(crawl_host_view(row)) for row in hosts[:HOSTS_SHOWN]],
            "hosts_left_out": len(hosts) > HOSTS_SHOWN,
            "reasons": [{"state": each["state"], "reason": each["reason"], "urls": each["urls"]} for each in refusals],
        }
        return self.frame.page(call, "crawl", values)

    async def why(self, call: Call) -> Reply:
        """Answer the explanation of one URL, or the form that asks for it. Raises `crawl_not_found`."""
        row = await self.reading.one(call.within, crawl_id_of(call))
        url = call.query.get("url", "").strip()
        found, no = None, None
        if url:
            try:
                found = await self.explain.of(call.within, row, url[: URL_CHARS_MAX + 1])
            except InterlockError as error:
                no = error.message
        values = {
            "crawl": crawl_view(row),
            "asked": url[:URL_CHARS_MAX],
            "found": None if found is None else _explained(found),
            "no": no,
            "lines": [] if found is None else await self._robots(found),
        }
        return self.frame.page(call, "crawl_explain", values, 200 if no is None else 400)

    async def hosts(self, call: Call) -> Reply:
        """Answer the hosts of all crawls, for the platform's operator. Raises `invalid_cursor`."""
        page = call.page
        after = str(page.after[0]) if page.after else ""
        named = call.query.get("host", "").strip()[:URL_CHARS_MAX] or None
        rows = await self.states.listed(after, page.limit_plus_one, named)
        kept, position = page.cut(rows, lambda row: (row.authority,))
        cursor = call.listed([], position).body["next_cursor"]
        values = {
            "hosts": [_host(host_view(row)) for row in kept],
            "asked": named or "",
            "next_url": None if cursor is None else f"/console/crawl-hosts?cursor={cursor}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "crawl_hosts", values)

    @property
    def sampler(self) -> Sampler:
        """What the list of screens may show: the newest crawl of a scope."""

        async def newest(scope: Scope) -> str | None:
            found = await self.reading.listed(scope, 1, None)
            return format_id("crawl", found[0]["crawl_id"]) if found else None

        return newest

    async def _robots(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the lines of robots.txt around the one that decided."""
        robots = found["robots"]
        if robots is None or not robots["line"]:
            return []
        return robots_lines(await self.states.robots_of(found["canonical"]), robots["line"])

    @staticmethod
    def _told(crawl: dict[str, Any]) -> dict[str, Any]:
        return {**crawl, "tone": _TONES.get(crawl["state"], ""), "resting": resting(crawl)}


def crawl_pages(pages: CrawlPages) -> list[Route]:
    """Return the routes of the pages."""
    return [
        page_at("/crawls", pages.show, "Crawls, newest first.", ("cursor",), action="crawls:read",
                codes=("invalid_cursor",)),
        as_type(page_at("/crawls.csv", pages.export, "Crawls as CSV, newest first.", action="crawls:read"),
                "text/csv"),
        page_at("/crawls/{id}", pages.one, "One crawl with its hosts.", action="crawls:read",
                codes=("crawl_not_found",)),
        page_at("/crawls/{id}/explain", pages.why, "Why a URL is, or is not, in the index.", ("url",),
                action="crawls:read", codes=("crawl_not_found",)),
        Route("GET", "/console/crawl-hosts", Level.PLATFORM, pages.hosts, "Hosts that crawls visit.",
              action="crawls:admin", is_html=True, query=("cursor", "host"), codes=("invalid_cursor",),
              media_type=HTML),
    ]  # fmt: skip


def resting(crawl: dict[str, Any]) -> int:
    """Return how many URLs of a crawl have come to rest."""
    return sum(int(crawl["counts"][name]) for name in _RESTING)


def sentence(crawl: dict[str, Any]) -> str:
    """Tell where a crawl stands."""
    counts, pressure = crawl["counts"], crawl["backpressure"]
    known = f"{resting(crawl):,} of {counts['discovered']:,} URLs are at rest, {counts['documents']:,} documents made"
    if crawl["state"] == "throttled":
        what = "Takes nothing" if pressure["state"] == "closed" else f"Takes {pressure['share']:.0%} of its share"
        return f"{what} because of {pressure['source']}; {known}."
    if crawl["state"] in {"paused", "canceled", "failed"} and crawl["reason"]:
        return f"It is {crawl['state']}: {safe(str(crawl['reason']))}. {known}."
    return f"{known}; {counts['queued']:,} wait and {counts['leased']:,} are being visited."


def robots_lines(body: bytes, line: int) -> list[dict[str, Any]]:
    """Return the lines around one of a robots.txt; lines end as its parser ends them."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    first = max(1, line - _LINES_AROUND)
    return [
        {"number": number, "text": safe(lines[number - 1].decode("utf-8", "replace")), "is_deciding": number == line}
        for number in range(first, min(len(lines), line + _LINES_AROUND) + 1)
    ]


def _host(view: dict[str, Any]) -> dict[str, Any]:
    return {
        **view,
        "host": safe(str(view.get("authority") or view["host"])),
        "tone": _HOST_TONES.get(view["state"], ""),
    }


def _explained(found: dict[str, Any]) -> dict[str, Any]:
    steps = [
        {**each, "words": ", ".join(f"{name} {safe(str(value))}" for name, value in each["detail"].items() if value)}
        for each in found["decisions"]
    ]
    return {
        **found,
        "canonical": safe(found["canonical"], URL_CHARS_MAX),
        "because": safe(found["because"], URL_CHARS_MAX),
        "tone": _VERDICTS.get(found["verdict"], ""),
        "decisions": steps,
    }
