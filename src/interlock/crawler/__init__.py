"""A polite, durable crawler that feeds retrieval: the host queues, not the URL.

Dials nothing inside a host's announced window, and fetches nothing that the index has no room for.
"""

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.routes import host_routes, routes
from interlock.crawler.routes.crawls import CrawlHandlers
from interlock.crawler.routes.hosts import HostHandlers
from interlock.crawler.service.control import ControlCrawl
from interlock.crawler.service.explain import Explain
from interlock.crawler.service.hosts import HostRules, HostStates
from interlock.crawler.service.reading import ReadCrawls
from interlock.crawler.service.start import CrawlTools, StartCrawl
from interlock.crawler.worker.worker import CrawlWorker, WorkerParts

__all__ = [
    "ControlCrawl",
    "CrawlHandlers",
    "CrawlTools",
    "CrawlWorker",
    "CrawlerConfig",
    "Explain",
    "HostHandlers",
    "HostRules",
    "HostStates",
    "ReadCrawls",
    "StartCrawl",
    "WorkerParts",
    "host_routes",
    "routes",
]
