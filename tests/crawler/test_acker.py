"""Outcomes that no store takes: they cost their own page, and no other."""

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.circuit import Circuit
from interlock.crawler.domain.delay import Pace
from interlock.crawler.domain.frontier import Acked, CrawlRef, HostAck, LeasedUrl, PageAck, Spooled
from interlock.crawler.domain.states import UrlState
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.worker.acker import Acker
from interlock.foundation.errors import InterlockError
from interlock.foundation.telemetry import Metrics
from tests.crawler.world import CLOCK, IDS

CRAWL = CrawlRef(IDS.new(), IDS.new(), IDS.new())


class Picky:
    """A frontier that breaks over what a site sent as an etag, and is away as often as it is told."""

    def __init__(self, away=0):
        self.written, self.away = [], away

    async def ack(self, owner, pages, hosts):
        if any(page.etag == "poison" for page in pages):
            raise ValueError("no store takes this")
        if self.away and len(pages) == 1:
            self.away -= 1
            raise InterlockError("store_unavailable")
        self.written += [*pages, *hosts]
        return Acked()


def page(number, etag=None):
    key, spooled = IDS.new(), Spooled(IDS.new(), f"/{number}", (), 1)
    url = LeasedUrl(CRAWL, key, f"http://h.example/{number}")
    return PageAck(url, 1, 1, UrlState.DONE, is_visit=True, etag=etag, spooled=spooled)


async def written(frontier):
    told = []
    acker = Acker(frontier, "worker", CLOCK, CrawlerConfig(), CrawlMetrics(Metrics()),
                  lambda pages, acked: told.extend((each, acked) for each in pages))  # fmt: skip
    acks = [page(1), page(2, "poison"), page(3)]
    for each in acks:
        acker.page(each)
    acker.host(HostAck(1, 1, Pace(0), Circuit(), 0.0, is_final=True))
    await acker.flush()
    return acks, told


async def test_a_page_whose_outcome_cannot_be_written_ends_alone_and_before_its_host_is_free():
    frontier = Picky()
    (first, bad, last), told = await written(frontier)
    kept = [(each.url.url_key, each.state, each.reason) for each in frontier.written[:-1]]
    assert kept == [
        (first.url.url_key, UrlState.DONE, None),
        (bad.url.url_key, UrlState.DEAD, "loop_error"),
        (last.url.url_key, UrlState.DONE, None),
    ]
    assert frontier.written[-1].is_final
    # Its body is let go.
    assert (bad, Acked()) in told


async def test_a_store_that_goes_away_meanwhile_gets_what_is_left_when_it_is_back():
    frontier = Picky(away=2)
    acks, _ = await written(frontier)
    assert [each.url.url_key for each in frontier.written[:-1]] == [each.url.url_key for each in acks]
    assert frontier.written[-1].is_final
