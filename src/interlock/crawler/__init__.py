"""A polite, durable crawler that feeds retrieval: the host queues, not the URL.

Dials nothing inside a host's announced window, and fetches nothing that the index has no room for.
"""

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.routes import host_routes, routes
from interlock.crawler.routes.crawls import CrawlHandlers, crawl_id_of
from interlock.crawler.routes.hosts import HostHandlers
from interlock.crawler.routes.views import crawl_host_view, crawl_view, host_view, safe
from interlock.crawler.service.control import ControlCrawl
from interlock.crawler.service.explain import Explain
from interlock.crawler.service.hosts import HostRules, HostStates
from interlock.crawler.service.reading import ReadCrawls
from interlock.crawler.service.start import CrawlTools, StartCrawl
from interlock.crawler.worker.worker import CrawlWorker, WorkerParts

__all__ = [
    "ControlCrawl", "CrawlHandlers", "CrawlTools", "CrawlWorker", "CrawlerConfig", "Explain", "HostHandlers",
    "HostRules", "HostStates", "ReadCrawls", "StartCrawl", "WorkerParts", "crawl_host_view", "crawl_id_of",
    "crawl_view", "host_routes", "host_view", "routes", "safe",
]  # fmt: skip
