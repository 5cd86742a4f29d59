"""What a crawl may ask of a host: strangers are visited at most once a second, one request at a time.

Knows no verified hosts; the operator's allow-list is the only way below the floor.
"""

from interlock.crawler.domain.spec import DELAY_S_FLOOR
from interlock.crawler.domain.types import HostGuard


def bounded(guard: HostGuard, host: str, port: int, floor_ms: int, concurrency: int) -> tuple[int, int]:
    """Return the floor in milliseconds and the concurrency that hold for a host."""
    if guard.is_allow_listed(host, port):
        return floor_ms, concurrency
    return max(round(DELAY_S_FLOOR * 1000), floor_ms), 1
