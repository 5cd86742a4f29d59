"""What the crawler counts, in the words of the design page.

Decides nothing, and holds no label that names a tenant, a host or a URL.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from interlock.crawler.domain.backpressure import Load, Valve
from interlock.crawler.domain.frontier import PageAck
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import Fetched
from interlock.crawler.store.crawls import CrawlLoad
from interlock.foundation.telemetry import Merge, Metrics

_RESTING: Final = ("done", "duplicate", "refused", "dead", "gone")


class CrawlMetrics:
    """Counts of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        counter, gauge, histogram = metrics.counter, metrics.gauge, metrics.histogram
        self._fetches = counter("crawler_fetches_total", "Requests by what came of them.", ("outcome",))
        phases = histogram("crawler_fetch_seconds", "Time of a request by phase.", ("phase",))
        self._ttfb, self._total = phases.labels("ttfb"), phases.labels("total")
        self._dns, self._connect = phases.labels("dns"), phases.labels("connect")
        sizes = counter("crawler_bytes_total", "Bytes of bodies, on the wire and decoded.", ("kind",))
        self._wire, self._body = sizes.labels("wire"), sizes.labels("body")
        self._late = histogram("crawler_host_lateness_seconds", "From when a host was due to its request.")
        self.lease_s = histogram("crawler_lease_seconds", "Time of a call for due hosts.")
        self.ack_s = histogram("crawler_ack_seconds", "Time of writing a batch of outcomes.")
        self.fenced = counter("crawler_fenced_total", "Outcomes that came after their lease had gone.")
        self._refetches = counter("crawler_refetch_total", "Visits of URLs that were visited before.")
        self._egress = counter("crawler_egress_refused_total", "URLs that the guard refused, by reason.", ("rule",))
        self._traps = counter("crawler_traps_total", "URLs that a site could make without end, by rule.", ("rule",))
        self.extract_s = histogram("crawler_extract_seconds", "Time of taking the text of a page.", ("mode",))
        self.withdraw_s = histogram("crawler_withdraw_seconds", "From seeing that a page is gone to the index's word.")
        self.blocked_dials = counter("crawler_blocked_dials_total", "Turns of hosts that a block stopped at the dial.")
        self._duplicates = counter("crawler_duplicates_total", "Pages whose text another URL has.", ("kind",))
        self._cpu = counter("crawler_cpu_seconds_total", "Processor time spent on pages.", ("stage",))
        self.stale = gauge("crawler_stale_documents", "Documents whose page could not be visited again.")
        self._frontier = gauge(
            "crawler_frontier_urls", "URLs of the crawls under way, by what they came to.", ("state",), Merge.MAX
        )
        self._hosts = gauge("crawler_hosts", "Hosts that workers hold: leased, and waiting for a slot.", ("state",))
        self._slots = gauge("crawler_slots_in_use", "Requests in flight, all and those of slow hosts.", ("class",))
        self._share = gauge("crawler_backpressure_share", "How far the tightest crawl is open.", merge=Merge.MAX)
        self._pipeline = gauge("crawler_pipeline_bytes", "Bytes between dial and index.", merge=Merge.MAX)
        self._outbox_age = gauge(
            "crawler_outbox_age_seconds", "Age of the oldest document that the index does not have.", merge=Merge.MAX
        )

    def dialled(self, late_s: float) -> None:
        """Count a request that begins, `late_s` after its host was due."""
        self._late.observe(max(0.0, late_s))

    def fetched(self, outcome: str, came: Fetched) -> None:
        """Count what a request came to."""
        self._fetches.labels(outcome).inc()
        times = came.timings
        self._total.observe(times.total_ms / 1e3)
        if came.status is not None:
            self._ttfb.observe(times.ttfb_ms / 1e3)
        if times.dns_ms:
            self._dns.observe(times.dns_ms / 1e3)
        if times.connect_ms > 1.0:
            self._connect.observe(times.connect_ms / 1e3)
        self._wire.inc(came.wire_bytes)
        self._body.inc(len(came.body))

    def extracted(self, seconds: float, cpu_s: float) -> None:
        """Count a page whose text was taken."""
        self.extract_s.labels("markdown").observe(seconds)
        self._cpu.labels("extract").inc(cpu_s)

    def parsed(self, cpu_s: float) -> None:
        """Count the processor time of reading a page."""
        self._cpu.labels("parse").inc(cpu_s)

    def duplicates(self, pages: int) -> None:
        """Count pages whose text another URL has."""
        self._duplicates.labels("exact").inc(pages)

    def under_way(self, loads: Sequence[CrawlLoad]) -> None:
        """Show the URLs of the crawls under way."""
        self._frontier.labels("pending").set(sum(each.pending for each in loads))
        for at, state in enumerate(_RESTING):
            self._frontier.labels(state).set(sum(each.counts[at] for each in loads))

    def settled(self, ack: PageAck) -> None:
        """Count what became of a URL."""
        if ack.is_visit and ack.url.visits:
            self._refetches.inc()
        if ack.reason == "egress_blocked" and ack.state is UrlState.REFUSED:
            self._egress.labels(next((str(each.detail.get("reason", "")) for each in ack.decisions), "")).inc()
        for each in ack.discoveries:
            if each.refused is not None and each.refused.startswith("trap_"):
                self._traps.labels(each.refused).inc()

    def looked(self, held: dict[str, int], valves: Iterable[Valve], loads: Sequence[Load]) -> None:
        """Show what the worker holds, and how far its crawls are open."""
        self._hosts.labels("leased").set(held["hosts"])
        self._hosts.labels("waiting").set(held["parked"])
        self._slots.labels("all").set(held["in_use"])
        self._slots.labels("slow").set(held["slow"])
        self._share.set(min((each.share for each in valves), default=1.0))
        self._pipeline.set(sum(each.used_bytes for each in loads))
        self._outbox_age.set(max((each.lag_s for each in loads), default=0.0))
