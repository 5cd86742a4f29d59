"""How busy the accelerators under a pool's engines are: by NVML on this machine, or by the pages of DCGM exporters.

Where neither is there a pool goes by the time in which its engines had something to do; decides nothing.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.wire import Client, Timeouts, UpstreamError
from interlock.scheduler.adapters.metrics_names import read_page
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.types import EngineState
from interlock.scheduler.service import FrontService

_PAGE_BYTES_MAX: Final = 8_388_608
# What DCGM counts in percent as NVML does, and the share of time that profiling gives where the first is switched off.
_GAUGES: Final = (("DCGM_FI_DEV_GPU_UTIL", 100.0), ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1.0))
_HERE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Devices(Protocol):
    """The accelerators of this machine."""

    def busy_share(self) -> float | None:
        """Return the mean share of the last moments in which they were at work; None where there are none."""
        ...


class DeviceWatch:
    """Looks at the accelerators now and then, and tells the figures of each pool."""

    def __init__(
        self, front: FrontService, client: Client, devices: Devices, *, clock: Clock, config: SchedulerConfig
    ) -> None:
        self._front = front
        self._client = client
        self._devices = devices
        self._clock = clock
        self._interval_s = config.device_interval_s
        self._timeouts = Timeouts(*(config.probe_timeout_s,) * 4)
        self._urls = urls_of(config.dcgm_urls)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.run_once()
            await self._clock.sleep(self._interval_s)

    async def run_once(self) -> None:
        """Look once: at the pages that are named for a pool, else at this machine where all of its engines are here."""
        names = self._front.pool_names()
        local = [name for name in names if name not in self._urls and _is_here(self._front.engines(name))]
        here = await asyncio.to_thread(self._devices.busy_share) if local else None
        for name in names:
            share = here if name in local else await self._shown(self._urls.get(name, ()))
            if share is not None:
                self._front.measuring.device(name, share)

    async def _shown(self, urls: Iterable[str]) -> float | None:
        shares = [each for url in urls for each in await self._page(url)]
        return sum(shares) / len(shares) if shares else None

    async def _page(self, url: str) -> list[float]:
        """Return the share of each device that an exporter shows; none where it does not answer."""
        content = b""
        with suppress(UpstreamError, ValueError):
            async with self._client.request("GET", url, [], b"", self._timeouts) as answer:
                content = await answer.read(_PAGE_BYTES_MAX) if answer.status == 200 else b""
        page = read_page(content.decode("utf-8", "replace"))
        for name, whole in _GAUGES:
            if name in page:
                return [min(1.0, max(0.0, value / whole)) for _, value in page[name]]
        return []


class NvmlDevices:
    """The NVIDIA devices of this machine, where the extra `nvidia` and a driver are installed."""

    def __init__(self) -> None:
        self._library: Any = None

    def busy_share(self) -> float | None:
        """Return the mean utilization of all devices; None without a driver, a device or the extra."""
        try:
            import pynvml  # noqa: PLC0415 - an extra
        except ImportError:
            return None
        try:
            if self._library is None:
                pynvml.nvmlInit()
                self._library = pynvml
            found = [
                pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(number)).gpu / 100
                for number in range(pynvml.nvmlDeviceGetCount())
            ]
        except pynvml.NVMLError:
            return None
        return sum(found) / len(found) if found else None


def urls_of(setting: str | None) -> Mapping[str, tuple[str, ...]]:
    """Return the pages of each pool of `POOL=URL,POOL=URL`.

    Raises:
        BrokenWorldError: `setting_invalid` where it is no list of such pairs.
    """
    found: dict[str, tuple[str, ...]] = {}
    for each in setting.split(",") if setting else ():
        pool, _, url = each.strip().partition("=")
        if not pool or urlsplit(url).scheme not in {"http", "https"}:
            raise BrokenWorldError("setting_invalid", f"scheduler.dcgm_urls has {each!r}", "write POOL=http://..")
        found[pool] = (*found.get(pool, ()), url)
    return found


def _is_here(engines: Iterable[EngineState]) -> bool:
    """Whether the engines use accelerators of this machine: ours compute on its processor."""
    known = list(engines)
    return bool(known) and all(
        each.dialect is not Dialect.EMBEDDED and urlsplit(each.url).hostname in _HERE for each in known
    )
