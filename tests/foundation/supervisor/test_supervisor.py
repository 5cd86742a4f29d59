import asyncio
import json
import os
import re
import signal
import urllib.request
from dataclasses import replace

import pytest

from interlock.foundation.errors import BrokenWorldError
from tests.foundation.supervisor.conftest import QUICK, _lives, role


async def get(url: str) -> tuple[int, str]:
    def call() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(call)


def events(house) -> list[dict]:
    return [json.loads(line) for line in house.output.getvalue().splitlines()]


def order(house, event: str, field: str = "role") -> list[str]:
    return [each[field] for each in events(house) if each["event"] == event]


async def test_roles_start_in_order_and_end_in_order(house, tmp_path):
    notes = tmp_path / "ended"
    names = ("worker", "edge", "engine", "scheduler", "control")
    one = house(*(role(name, "noted", str(notes)) for name in names))
    await one.start()
    assert order(one, "role_up") == ["control-0", "scheduler-0", "engine-0", "edge-0", "worker-0"]
    assert one.supervisor.state.ready
    assert one.urls == [None]

    assert await one.stop() == 0
    assert notes.read_text().split() == ["edge", "worker", "scheduler", "engine", "control"]
    assert sorted(entry.name for entry in one.directory.run.iterdir()) == ["kill.d", "lock"]
    assert one.store.pid is None


async def test_a_killed_role_comes_back_and_is_named_while_it_is_away(house):
    one = house(role("control"), role("worker"))
    await one.start()
    first = one.pid("worker")
    os.kill(first, signal.SIGKILL)
    await one.until(lambda: not one.supervisor.state.ready)
    assert [reason.check for reason in one.supervisor.state.reasons] == ["worker-0"]
    await one.until(lambda: one.supervisor.state.ready)
    assert one.pid("worker") != first
    assert one.supervisor.statistics().restarts["worker-0"] == 1
    assert "signal 9" in order(one, "role_died", "detail")[0]


async def test_a_process_that_control_wants_anew_drains_and_comes_back_and_no_death_is_counted(house, tmp_path):
    notes = tmp_path / "ended"
    one = house(role("control", "restarts", "worker-0"), role("worker", "noted", str(notes)))
    await one.start()
    first = one.pid("worker")
    await one.until(lambda: one.pid("worker") != first and one.supervisor.state.ready)
    assert notes.read_text().split() == ["worker"]
    assert one.supervisor.statistics().restarts["worker-0"] == 0
    assert order(one, "role_died") == []
    assert order(one, "restart_asked", "process") == ["worker-0"]


async def test_no_other_role_than_control_has_a_process_restarted(house):
    one = house(role("control"), role("worker", "restarts", "control-0"))
    await one.start()
    first = one.pid("control")
    await one.until(lambda: order(one, "restart_refused", "process"))
    assert one.pid("control") == first
    assert one.supervisor.state.ready


async def test_one_of_two_processes_away_is_degraded_not_unready(house):
    one = house(role("edge", index=0), role("edge", index=1))
    await one.start()
    os.kill(one.pid("edge", 1), signal.SIGKILL)
    await one.until(lambda: one.supervisor.state.degraded == ("edge",))
    assert one.supervisor.state.ready
    await one.until(lambda: one.supervisor.state.degraded == ())


async def test_what_a_role_misses_is_in_the_state(house):
    one = house(role("control", "degraded"))
    await one.start()
    await one.until(lambda: one.supervisor.state.degraded == ("weather",))
    assert one.supervisor.state.ready


async def test_a_hung_role_writes_its_stacks_and_is_replaced(house):
    # It hangs each time that it is started; one that got no turn to write its stacks in time is not the last.
    config = replace(QUICK, heartbeat_timeout_s=2.5, dump_wait_s=1.0, deaths_max=1_000)
    one = house(role("worker", "hang"), config=config)
    await one.start()
    first = one.pid("worker")
    await one.until(lambda: "in stop_the_loop" in one.output.getvalue())
    await one.until(lambda: one.supervisor.statistics().restarts["worker-0"])
    assert "no heartbeat" in order(one, "role_died", "detail")[0]
    assert not _lives(first)


async def test_a_role_that_never_says_ready_is_not_waited_for_for_ever(house):
    one = house(role("worker", "mute", ready_timeout_s=0.4))
    one.running = asyncio.create_task(one.supervisor.run())
    await one.until(lambda: "failed" in str(one.supervisor.state.reasons))
    assert "not ready within 0.4 s" in str(one.supervisor.state.reasons)


async def test_a_role_that_crashes_at_first_is_tried_again(house, tmp_path):
    one = house(role("worker", "crash_twice", str(tmp_path / "tries")))
    await one.start()
    assert one.supervisor.statistics().restarts["worker-0"] == 2


async def test_a_role_that_keeps_dying_is_failed_and_does_not_stop_the_others(house):
    one = house(role("control", "crash"), role("worker"))
    one.running = asyncio.create_task(one.supervisor.run())
    await one.until(lambda: one.supervisor.statistics().up["worker-0"])
    assert "failed: exit 3" in str(one.supervisor.state.reasons)
    before = one.supervisor.statistics().restarts["control-0"]
    await one.until(lambda: one.supervisor.statistics().restarts["control-0"] > before)
    assert await one.stop() == 0


async def test_a_killed_store_is_degraded_then_back_with_its_pid_file(house):
    one = house(role("control"))
    await one.start()
    first = one.pid("store")
    os.kill(first, signal.SIGKILL)
    await one.until(lambda: one.supervisor.state.degraded == ("store",))
    assert one.supervisor.state.ready
    await one.until(lambda: one.supervisor.state.degraded == ())
    assert one.pid("store") != first


async def test_private_values_reach_the_role_they_are_for(house, tmp_path):
    told, untold = tmp_path / "told", tmp_path / "untold"
    one = house(
        role("edge", "secretive", str(told)),
        role("worker", "secretive", str(untold), ready_timeout_s=0.3),
        handover={"edge": {"master_key": b"\x00private"}},
    )
    one.running = asyncio.create_task(one.supervisor.run())
    await one.until(lambda: one.supervisor.statistics().restarts["worker-0"])
    assert told.read_bytes() == b"\x00private"
    assert not untold.exists()


async def test_every_edge_accepts_on_the_one_socket(house):
    one = house(role("edge", wants_listener=True), role("edge", index=1, wants_listener=True), port=0)
    await one.start()
    url = one.urls[0]
    assert one.directory.url_file.read_text() == f"{url}\n"
    seen = {(await get(url))[1] for _ in range(40)}
    assert seen <= {str(one.pid("edge", 0)), str(one.pid("edge", 1))}
    os.kill(one.pid("edge", 0), signal.SIGKILL)
    assert (await get(url))[0] == 200


async def test_metrics_of_all_processes_are_merged(house):
    one = house(role("control"), role("worker"), role("edge", wants_listener=True), port=0)
    await one.start()
    status, text = 0, ""
    async with asyncio.timeout(120):
        # A role that is slow to tell its snapshot is read as it was last heard.
        while 'interlock_tests_beats_total{way="plain"} 3.0' not in text:
            status, text = await get(one.urls[0] + "/metrics")
    assert status == 200
    assert 'interlock_supervisor_role_up{role="worker-0"} 1.0' in text
    assert 'interlock_supervisor_role_restarts_total{role="store-0"} 0.0' in text


async def test_whoever_reads_the_metrics_has_them_taken_then(house):
    one = house(role("control"))
    await one.start()

    async def taken():
        return float(re.search(r"snapshots_total (\S+)", await one.supervisor.metrics())[1])

    began = await taken()
    # Unasked there is one in ten seconds, which is far less.
    async with asyncio.timeout(120):
        while await taken() < began + 30:
            pass


async def test_a_role_that_is_held_still_is_read_as_it_last_was(house):
    one = house(role("control"), role("worker"))
    await one.start()
    async with asyncio.timeout(120):
        while 'beats_total{way="plain"} 2.0' not in await one.supervisor.metrics():
            pass
    os.kill(one.pid("worker"), signal.SIGSTOP)
    try:
        assert 'beats_total{way="plain"} 2.0' in await one.supervisor.metrics()
    finally:
        os.kill(one.pid("worker"), signal.SIGCONT)


async def test_a_busy_port_is_named(house):
    one = house(role("edge", wants_listener=True), port=0)
    await one.start()
    port = int(one.urls[0].rsplit(":", 1)[1])
    two = house(role("edge", wants_listener=True), port=port)
    two.directory.root = two.directory.root.with_name("another")
    with pytest.raises(BrokenWorldError, match="port_in_use"):
        await two.supervisor.run()


async def test_a_second_supervisor_is_refused_with_the_pid_of_the_first(house):
    one, two = house(role("control")), house(role("control"))
    await one.start()
    with pytest.raises(BrokenWorldError, match=f"data_directory_in_use: .*pid {os.getpid()}"):
        await two.supervisor.run()
    assert one.supervisor.state.ready


async def test_a_role_that_does_not_drain_is_killed_in_its_bound(house):
    one = house(role("worker", "stubborn", drain_s=0.2))
    await one.start()
    pid = one.pid("worker")
    assert await one.stop() == 0
    assert order(one, "drain_overrun") == ["worker-0"]
    assert not _lives(pid)


async def test_a_second_signal_ends_at_once(house):
    one = house(role("worker", "stubborn", drain_s=3_600.0))
    await one.start()
    one.supervisor.stop()
    one.supervisor.stop()
    assert await asyncio.wait_for(one.running, 240) == 1


async def test_a_drain_during_the_boot_leaves_nothing(house):
    one = house(role("control"), role("engine", "mute", ready_timeout_s=60, drain_s=0.2))
    one.running = asyncio.create_task(one.supervisor.run())
    await one.until(lambda: order(one, "role_up") == ["control-0"])
    await one.until(lambda: one.directory.pid_file("engine").exists())
    pids = [one.pid("control"), one.pid("engine")]
    assert await one.stop() == 0
    assert not any(_lives(pid) for pid in pids)
