"""HTTP of the crawler: crawls, their URLs and hosts, and an operator's rules for hosts."""

from interlock.crawler.routes.crawls import routes
from interlock.crawler.routes.hosts import host_routes

__all__ = ["host_routes", "routes"]
