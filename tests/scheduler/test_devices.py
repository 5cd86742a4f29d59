"""How busy accelerators say they are, and what a pool shows of it. NVML is a double, as tests run without a GPU."""

import socket
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.telemetry import Metrics, merge
from interlock.foundation.wire import Server, WireLimits
from interlock.scheduler import EMBEDDED_OBJECTIVES, EngineSpec, FrontService, PoolMetrics, PoolSpec, SchedulerConfig
from interlock.scheduler.adapters.accelerator import DeviceWatch, NvmlDevices, urls_of
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.measures import DEVICE_FRESH_US
from tests.support.clocks import HandClock

PAGE = """# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-2",device="nvidia1",modelName="NVIDIA H200"} 30
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200"} 120000
"""
PROFILED = 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-1"} 0.25\n'
HOST = ("127.0.0.1", 0)
HERE, THERE = "http://127.0.0.1:8000", "http://10.0.0.5:8000"


class Devices:
    """Accelerators of this machine that are as busy as the test says."""

    def __init__(self, share):
        self.share = share

    def busy_share(self):
        return self.share


@asynccontextmanager
async def exporter(page, clock):
    """Serve a page as a DCGM exporter does; without one it fails."""

    async def handle(exchange):
        await exchange.respond(200 if page else 503, [(b"content-type", b"text/plain")], page.encode())

    server, sock = Server(handle, WireLimits(), mint=lambda: "req_test", clock=clock), socket.create_server(HOST)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/metrics"
    await server.listen(sock)
    try:
        yield url
    finally:
        await server.drain(0.2)


def front_of(clock, ids, *urls, name="chat"):
    spec = PoolSpec(name, EMBEDDED_OBJECTIVES, tuple(EngineSpec(url, "m", 4, 2_048) for url in urls))
    return FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig())


def shown(front, name="chat"):
    figures = front.measuring.figures(name)
    return figures["gpu_utilization"], figures["gpu_utilization_source"]


@pytest.mark.parametrize(("page", "expected"), [(PAGE, (0.6, "device")), (PROFILED, (0.25, "device"))])
async def test_a_pool_shows_what_the_exporter_of_its_accelerators_says(client, clock, ids, page, expected):
    front = front_of(clock, ids, THERE)
    async with exporter(page, clock) as url:
        config = SchedulerConfig(dcgm_urls=f"chat={url}")
        await DeviceWatch(front, client, Devices(0.9), clock=clock, config=config).run_once()
    assert shown(front) == expected
    metrics = Metrics()
    observer = PoolMetrics(metrics)
    observer.pools(lambda: [front.statistics("chat")], front.measuring)
    line = f'interlock_scheduler_gpu_utilization{{pool="chat",source="device"}} {expected[0]}'
    assert line in merge([metrics.snapshot()])


@pytest.mark.parametrize("page", ["", "vllm:num_requests_running 3\n"])
async def test_without_a_word_of_the_accelerators_the_time_of_the_engines_counts(client, clock, ids, page):
    front = front_of(clock, ids, THERE)
    async with exporter(page, clock) as url:
        config = SchedulerConfig(dcgm_urls=f"chat={url}")
        await DeviceWatch(front, client, Devices(0.9), clock=clock, config=config).run_once()
    assert shown(front) == (None, "step_busy")


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ((HERE,), (0.4, "device")),
        ((HERE, THERE), (None, "step_busy")),
        ((), (None, "step_busy")),
    ],
)
async def test_devices_of_this_machine_count_for_pools_whose_engines_are_all_here(client, clock, ids, urls, expected):
    front = front_of(clock, ids, *urls)
    await DeviceWatch(front, client, Devices(0.4), clock=clock, config=SchedulerConfig()).run_once()
    assert shown(front) == expected


async def test_our_own_engine_computes_on_the_processor_whatever_the_accelerators_do(client, clock, ids):
    engine = EngineSpec(HERE, "m", 4, 2_048, dialect=Dialect.EMBEDDED)
    front = FrontService(
        [PoolSpec("chat", EMBEDDED_OBJECTIVES, (engine,))], clock=clock, ids=ids, config=SchedulerConfig()
    )
    await DeviceWatch(front, client, Devices(0.4), clock=clock, config=SchedulerConfig()).run_once()
    assert shown(front) == (None, "step_busy")


async def test_what_the_accelerators_said_is_forgotten_when_they_fall_silent(client, ids):
    clock = HandClock()
    front = front_of(clock, ids, HERE)
    await DeviceWatch(front, client, Devices(0.4), clock=clock, config=SchedulerConfig()).run_once()
    assert shown(front) == (0.4, "device")
    clock.forward += DEVICE_FRESH_US / 1_000_000
    assert shown(front) == (None, "step_busy")


class Nvml:
    """The module `pynvml` with two devices, or without a driver."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, *percents):
        self.percents = percents

    def nvmlInit(self):  # noqa: N802 - the library's word
        if not self.percents:
            raise self.NVMLError("libnvidia-ml.so.1")

    def nvmlDeviceGetCount(self):  # noqa: N802 - the library's word
        return len(self.percents)

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802 - the library's word
        return number

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802 - the library's word
        return SimpleNamespace(gpu=self.percents[handle], memory=1)


@pytest.mark.parametrize(("percents", "share"), [((100, 50), 0.75), ((), None)])
def test_nvml_is_asked_where_it_is_installed(monkeypatch, percents, share):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(*percents))
    assert NvmlDevices().busy_share() == share


def test_without_the_extra_there_are_no_devices(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NvmlDevices().busy_share() is None


@pytest.mark.parametrize("setting", ["http://10.0.0.5:9400/metrics", "chat=", "chat=10.0.0.5:9400", "chat=http://a,"])
def test_a_setting_that_names_no_pool_or_no_page_is_refused(setting):
    with pytest.raises(BrokenWorldError, match="setting_invalid"):
        urls_of(setting)


def test_a_pool_may_have_several_exporters():
    found = urls_of("chat=http://a:9400/metrics, chat=http://b:9400/metrics,code=http://c:9400/metrics")
    assert found == {
        "chat": ("http://a:9400/metrics", "http://b:9400/metrics"),
        "code": ("http://c:9400/metrics",),
    }
