"""The spool keeps what was closed, tells what was open, and says what it had to drop."""

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import (
    STEP_NUMBER,
    Addendum,
    Attempt,
    Decision,
    Spool,
    TelemetryConfig,
    ring,
)
from interlock.foundation.telemetry.frames import Kind, encode
from interlock.foundation.telemetry.ring import RingBusyError
from interlock.foundation.telemetry.segments import Segments
from tests.foundation.telemetry.worlds import CLOCK, IDS, SMALL, START_US, drain, record, record_of, spool_at


def test_a_closed_record_is_taken_once_and_comes_back_equal(tmp_path):
    spool = spool_at(tmp_path)
    wanted = record()
    frame = spool.open(wanted.id, START_US, "POST", "/v1/chat/completions")
    frame.note(organization_id=wanted.organization_id, alias="default")
    frame.close(wanted)

    assert spool.statistics().pending == 1
    assert drain(spool) == [wanted]
    assert spool.statistics().pending == 0
    assert drain(spool) == []


def test_a_ring_of_an_older_release_is_read_and_shipped(tmp_path):
    spool = spool_at(tmp_path)
    wanted, late = record(), record()
    for each in (wanted, late):
        spool.put(Kind.OPEN, each.id.bytes + encode((START_US, "POST", "/v1/models?x=1", {"key_id": each.key_id})))
    noted = {"alias": "default", "decisions": [Decision(START_US + 7, "limits", "limit.rpm", "ok", "1 of 60")]}
    spool.put(Kind.NOTE, late.id.bytes + encode(noted))
    spool.put(Kind.CLOSE, encode(wanted))
    spool.close()

    found, lost = drain(spool_at(tmp_path))

    assert found == wanted
    assert (lost.id, lost.outcome, lost.rule, lost.status) == (late.id, "worker_lost", "edge.worker_lost", 500)
    assert (lost.endpoint, lost.method, lost.key_id, lost.alias) == ("/v1/models", "POST", late.key_id, "default")
    assert lost.decisions[0] == Decision(START_US + 7, "limits", "limit.rpm", "ok", "1 of 60")
    assert [each.step for each in lost.decisions] == ["limits", "finished"]


def test_what_was_taken_but_not_acknowledged_is_taken_again(tmp_path):
    spool = spool_at(tmp_path)
    wanted = record()
    spool.open(wanted.id, START_US, "POST", "/").close(wanted)

    first = spool.take(10)
    again = spool.take(10)

    assert first is not None
    assert again is not None
    assert first.frames == again.frames


def test_a_second_close_is_not_a_second_record(tmp_path):
    spool = spool_at(tmp_path)
    wanted = record()
    frame = spool.open(wanted.id, START_US, "POST", "/")
    frame.close(wanted)
    frame.close(wanted)

    assert drain(spool) == [wanted]


def test_a_ring_belongs_to_one_process(tmp_path):
    spool = spool_at(tmp_path)
    with pytest.raises(RingBusyError):
        spool_at(tmp_path)
    spool.close()
    spool_at(tmp_path).close()


def test_a_restart_ships_what_was_closed_and_calls_the_open_ones_lost(tmp_path):
    spool = spool_at(tmp_path)
    done = record()
    open_id = IDS.new()
    spool.open(done.id, START_US, "POST", "/done").close(done)
    frame = spool.open(open_id, START_US, "POST", "/v1/chat/completions?x=1")
    frame.note(organization_id=UUID(int=1), workspace_id=UUID(int=2), key_id=UUID(int=3))
    frame.note(alias="default", decisions=[(0, STEP_NUMBER["limits"], "limit.rpm", "ok", "1 of 60")])
    spool.close()

    after = spool_at(tmp_path)
    assert after.statistics().recovered_lost == 1
    first, lost = drain(after)

    assert first == done
    assert (lost.id, lost.outcome, lost.status, lost.error_code) == (open_id, "worker_lost", 500, "internal_error")
    assert (lost.organization_id, lost.workspace_id, lost.key_id) == (UUID(int=1), UUID(int=2), UUID(int=3))
    assert (lost.alias, lost.endpoint, lost.method) == ("default", "/v1/chat/completions", "POST")
    assert [each.step for each in lost.decisions] == ["limits", "finished"]
    assert lost.complete
    assert lost.rule == "edge.worker_lost"


def test_a_long_story_of_a_running_request_does_not_hold_up_the_ring(tmp_path):
    spool = spool_at(tmp_path)
    slow = spool.open(IDS.new(), START_US, "POST", "/slow")
    slow.note(alias="default", decisions=[(0, STEP_NUMBER["route"], "route.default", "ok", "x" * 20_000)])
    wanted = [record() for _ in range(300)]
    for each in wanted:
        spool.open(each.id, START_US, "POST", "/").close(each)
    assert spool.statistics().dropped_usage == 0
    spool.close()

    *done, lost = drain(spool_at(tmp_path))

    assert [each.id for each in done] == [each.id for each in wanted]
    assert (lost.id, lost.alias, lost.rule) == (slow.story.id, "default", "edge.worker_lost")
    assert lost.decisions[0].detail.startswith("xxx")
    assert len(lost.decisions[0].detail) < SMALL.frame_bytes_max


def test_a_discarded_request_leaves_no_story_also_after_a_restart(tmp_path):
    spool = spool_at(tmp_path)
    spool.open(IDS.new(), START_US, "GET", "/flood").discard()
    kept = spool.open(IDS.new(), START_US, "GET", "/kept")
    spool.close()

    assert [each.target for each in drain(spool_at(tmp_path))] == ["/kept"]
    assert kept.live_from >= 0


def test_what_was_shipped_before_the_restart_is_not_shipped_again(tmp_path):
    spool = spool_at(tmp_path)
    blocker = spool.open(IDS.new(), START_US, "GET", "/slow")
    for _ in range(5):
        each = record()
        spool.open(each.id, START_US, "POST", "/").close(each)
    assert len(drain(spool)) == 5
    spool.close()

    after = spool_at(tmp_path)
    assert [each.outcome for each in drain(after)] == ["worker_lost"]
    assert blocker.live_from >= 0


def test_a_long_stream_is_copied_forward_and_blocks_nobody(tmp_path):
    spool = spool_at(tmp_path)
    stream_id = IDS.new()
    stream = spool.open(stream_id, START_US, "POST", "/v1/chat/completions")
    stream.note(organization_id=UUID(int=5), alias="default")
    rounds = 0
    seen = set()
    while rounds < 1_000:
        each = record()
        spool.open(each.id, START_US, "POST", "/").close(each)
        seen |= {found.id for found in drain(spool)}
        rounds += 1
    assert len(seen) == 1_000
    statistics = spool.statistics()
    assert (statistics.dropped_usage, statistics.dropped_detail, statistics.segment_bytes) == (0, 0, 0)
    spool.close()

    (lost,) = drain(spool_at(tmp_path))
    assert (lost.id, lost.organization_id, lost.alias) == (stream_id, UUID(int=5), "default")


def test_a_stream_that_was_copied_forward_can_still_be_closed(tmp_path):
    spool = spool_at(tmp_path)
    wanted = record()
    stream = spool.open(wanted.id, START_US, "POST", "/")
    for _ in range(1_000):
        each = record()
        spool.open(each.id, START_US, "POST", "/").close(each)
        drain(spool)
    stream.note(alias="late")
    stream.close(wanted)
    spool.close()

    assert drain(spool_at(tmp_path)) == [wanted]


def test_with_the_store_away_the_ring_spills_into_segments_and_nothing_is_lost(tmp_path):
    spool = spool_at(tmp_path)
    wanted = [record() for _ in range(600)]
    for each in wanted:
        spool.open(each.id, START_US, "POST", "/").close(each)

    statistics = spool.statistics()
    assert statistics.segment_bytes > 0
    assert statistics.pending == 600
    assert statistics.dropped_usage == statistics.dropped_detail == 0
    assert {each.id for each in drain(spool, 50)} == {each.id for each in wanted}
    assert spool.statistics().segment_bytes == 0
    assert spool.statistics().pending == 0
    assert list(tmp_path.glob("*.seg")) == []


def test_a_shipment_reads_a_piece_of_a_segment_and_not_the_file(tmp_path):
    segments = Segments(tmp_path / "edge.ring", 16 << 20, 1 << 30)
    wanted = [(Kind.STORY, bytes([number]) * (1 + 7_919 * number % 60_000)) for number in range(250)]
    for at in range(0, 250, 10):
        segments.append(wanted[at : at + 10])
    taken = []
    tracemalloc.start()
    try:
        while segments:
            frames, mark = segments.take(6)
            segments.shipped(mark, len(frames))
            taken += frames
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert peak_bytes - sum(len(payload) for _, payload in taken) < 2 << 20
    finally:
        tracemalloc.stop()
    assert taken == wanted


def test_segments_of_an_earlier_process_are_shipped_first(tmp_path):
    spool = spool_at(tmp_path)
    wanted = [record() for _ in range(400)]
    for each in wanted:
        spool.open(each.id, START_US, "POST", "/").close(each)
    spool.close()

    after = spool_at(tmp_path)
    assert after.statistics().pending == 400
    assert {each.id for each in drain(after)} == {each.id for each in wanted}


def test_details_are_dropped_before_usage_and_every_drop_is_counted(tmp_path):
    bounds = TelemetryConfig(
        ring_bytes=1 << 16, spill_bytes=1 << 13, frame_bytes_max=1 << 12, segment_bytes=1 << 14,
        segments_bytes_max=1 << 16, slim_percent=50,
    )  # fmt: skip
    spool = spool_at(tmp_path, bounds)
    count = 0
    while spool.statistics().dropped_usage == 0:
        each = record(detail="x" * 300)
        spool.open(each.id, START_US, "POST", "/").close(each)
        count += 1
    statistics = spool.statistics()

    assert statistics.dropped_detail > 0
    assert statistics.segment_bytes <= bounds.segments_bytes_max
    kept = drain(spool)
    assert len(kept) == count - statistics.dropped_usage
    slim = [each for each in kept if each.decisions[-1].detail != "x" * 300]
    assert slim
    assert all(each.usage.output_tokens == 34 and each.decisions[-1].rule == "route.default" for each in slim)


def test_a_shipment_that_spilled_meanwhile_is_shipped_again_and_counted_right(tmp_path):
    spool = spool_at(tmp_path)
    early = [record() for _ in range(20)]
    for each in early:
        spool.open(each.id, START_US, "POST", "/").close(each)
    batch = spool.take(100)
    assert batch is not None
    later = [record() for _ in range(300)]
    for each in later:
        spool.open(each.id, START_US, "POST", "/").close(each)
    spool.shipped(batch)

    found = drain(spool)
    assert {each.id for each in early} | {each.id for each in later} >= {each.id for each in found}
    assert {each.id for each in found} >= {each.id for each in later}
    assert spool.statistics().pending == 0


def test_an_addendum_survives_a_restart(tmp_path):
    spool = spool_at(tmp_path)
    part = Addendum(
        id=IDS.new(), organization_id=UUID(int=1), decisions=[Decision(START_US, "grant", "pool.slot", "granted")]
    )
    spool.append(part)
    spool.close()

    batch = spool_at(tmp_path).take(10)
    assert batch is not None
    assert [kind for kind, _ in batch.frames] == [Kind.ADDENDUM]


def test_a_frame_over_the_bound_is_cut_and_counted(tmp_path):
    spool = spool_at(tmp_path)
    wanted = record(detail="y" * 50_000)
    spool.open(wanted.id, START_US, "POST", "/").close(wanted)

    (kept,) = drain(spool)
    assert kept.rule == wanted.rule
    assert len(kept.decisions[-1].detail) < 5_000
    assert kept.decisions[-1].detail.endswith("…[cut]")
    assert spool.statistics().dropped_detail == 1


_WRITER = """
import itertools, sys
from pathlib import Path
from uuid import UUID
from interlock.foundation.clock import SystemClock
from interlock.foundation.telemetry import RequestRecord, Spool, TelemetryConfig
spool = Spool(Path(sys.argv[1]), SystemClock(), TelemetryConfig(ring_bytes=1 << 20, spill_bytes=1 << 16))
for n in itertools.count(1):
    frame = spool.open(UUID(int=n), n, "POST", "/v1/chat/completions")
    frame.note(organization_id=UUID(int=77), alias="default")
    if n % 10:
        frame.close(RequestRecord(id=UUID(int=n), started_us=n, outcome="ok", status=200, rule="r"))
    if n % 50 == 0:
        print(n, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 60])
def test_a_killed_process_loses_no_record_that_it_had_closed(tmp_path, lines):
    path = tmp_path / "edge-0.ring"
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            reached = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)

    spool = Spool(path, SystemClock())
    found = {each.id.int: each for each in drain(spool)}

    for n in range(1, reached + 1):
        assert found[n].outcome == ("ok" if n % 10 else "worker_lost"), n
        assert found[n].organization_id == (None if n % 10 else UUID(int=77))
    assert spool.statistics().corrupt_files == 0


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_bad_bytes_cost_one_frame_and_the_file_is_kept_aside(tmp_path):
    spool = spool_at(tmp_path)
    wanted = [record() for _ in range(30)]
    for each in wanted:
        spool.open(each.id, START_US, "POST", "/").close(each)
    spool.close()
    _flip(tmp_path / "edge-0.ring", 4_096 + 6_000)

    after = spool_at(tmp_path)
    assert after.statistics().corrupt_files == 1
    assert len(list(tmp_path.glob("edge-0.ring.corrupt-*"))) == 1
    found = {each.id for each in drain(after) if each.outcome == "ok_stream"}
    assert len(found) >= 29
    assert found <= {each.id for each in wanted}


@pytest.mark.parametrize("content", [b"", b"x", b"not a ring" * 1_000, b"ilspool1" + b"\xff" * 9_000])
def test_a_file_that_is_no_ring_is_set_aside(tmp_path, content):
    (tmp_path / "edge-0.ring").write_bytes(content)
    spool = spool_at(tmp_path)
    wanted = record()
    spool.open(wanted.id, START_US, "POST", "/").close(wanted)

    assert drain(spool) == [wanted]
    assert spool.statistics().corrupt_files == bool(content)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 4_096 + (1 << 16) - 1), count=st.integers(1, 60))
def test_any_single_bad_byte_never_stops_a_start_and_never_invents_a_record(tmp_path_factory, at, count):
    folder = tmp_path_factory.mktemp("flip")
    spool = spool_at(folder)
    wanted = {}
    for _ in range(count):
        each = record()
        wanted[each.id] = each
        spool.open(each.id, START_US, "POST", "/").close(each)
    spool.close()
    _flip(folder / "edge-0.ring", at)

    after = spool_at(folder)
    for found in drain(after):
        if found.outcome != "worker_lost":
            assert found == wanted[found.id]
    after.close()


class _Model:
    """What must come out: every closed record at least once, every open one as lost after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = spool_at(folder)
        self.frames = {}
        self.owed = {}
        self.lost = set()

    def step(self, action: str, size: int) -> None:
        getattr(self, action)(size)

    def open(self, size: int) -> None:
        if len(self.frames) < 12:
            request_id = IDS.new()
            self.frames[request_id] = self.spool.open(request_id, START_US, "POST", "/" + "p" * size)

    def note(self, size: int) -> None:
        for frame in list(self.frames.values())[:2]:
            frame.note(alias="a" * (size % 50))

    def close(self, size: int) -> None:
        if self.frames:
            request_id = next(iter(self.frames))
            wanted = record(request_id, detail="d" * size)
            self.frames.pop(request_id).close(wanted)
            self.owed[request_id] = wanted

    def burst(self, size: int) -> None:
        for _ in range(20):
            wanted = record(detail="b" * size)
            self.spool.open(wanted.id, START_US, "POST", "/").close(wanted)
            self.owed[wanted.id] = wanted

    def ship(self, size: int) -> None:
        batch = self.spool.take(1 + size % 30)
        if batch is None:
            return
        for kind, payload in batch.frames:
            found = record_of(kind, payload)
            if found.outcome == "worker_lost":
                self.lost.discard(found.id)
            elif found.id in self.owed:
                assert found == self.owed.pop(found.id)
        self.spool.shipped(batch)

    def restart(self, _size: int) -> None:
        self.spool.close()
        self.lost |= set(self.frames)
        self.frames = {}
        self.spool = spool_at(self.folder)

    def finish(self) -> None:
        for found in drain(self.spool):
            self.owed.pop(found.id, None)
            self.lost.discard(found.id)
        statistics = self.spool.statistics()
        self.spool.close()
        assert (statistics.dropped_usage, statistics.corrupt_files, statistics.pending) == (0, 0, 0)
        assert not self.owed
        assert not self.lost


@pytest.mark.parametrize("turn_bytes", [ring._TURN_BYTES, 1 << 12])
@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["open", "open", "note", "close", "burst", "burst", "ship", "restart"]),
            st.integers(0, 900),
        ),
        max_size=120,
    )
)
def test_no_order_of_requests_shipments_and_restarts_loses_one(tmp_path_factory, steps, turn_bytes):
    model = _Model(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        # A small ring has no room to turn back early, unless it may.
        patch.setattr(ring, "_TURN_BYTES", turn_bytes)
        for action, size in steps:
            model.step(action, size)
        model.finish()


def test_a_ring_that_is_shipped_stays_in_its_first_pages_and_whoever_is_open_is_still_told(tmp_path):
    spool = Spool(tmp_path / "edge-0.ring", CLOCK, TelemetryConfig(ring_bytes=16 << 20))
    slow_id, seen, furthest = IDS.new(), 0, 0
    spool.open(slow_id, START_US, "POST", "/slow")
    for at in range(12_000):
        each = record()
        spool.open(each.id, START_US, "POST", "/").close(each)
        furthest = max(furthest, spool._ring.head % spool._ring.capacity)
        if at % 500 == 499:
            seen += len(drain(spool))
            assert spool.statistics().ring_bytes_used < 1 << 20
    assert (seen + len(drain(spool)), spool._ring.head > 2 * spool._ring.capacity) == (12_000, True)
    assert furthest < 3 << 20
    assert (spool.statistics().dropped_detail, spool.statistics().segment_bytes) == (0, 0)
    spool.close()

    (lost,) = drain(Spool(tmp_path / "edge-0.ring", CLOCK))
    assert (lost.id, lost.outcome) == (slow_id, "worker_lost")


def test_statistics_name_every_bound(tmp_path):
    statistics = spool_at(tmp_path).statistics()
    assert statistics.ring_bytes == SMALL.ring_bytes
    assert statistics.segment_bytes_max == SMALL.segments_bytes_max
    assert CLOCK.now_us() == START_US


def _resident_kb(path: Path) -> int:
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if str(path) in line:
            found = True
        elif found and line.startswith("Rss:"):
            return int(line.split()[1])
    return 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the memory map of Linux")
def test_a_ring_that_is_shipped_keeps_no_memory(tmp_path):
    spool = Spool(tmp_path / "edge-0.ring", CLOCK, TelemetryConfig(ring_bytes=16 << 20))
    for _ in range(40_000):
        each = record()
        spool.open(each.id, START_US, "POST", "/").close(each)
        if spool.pending >= 500:
            drain(spool)
    assert _resident_kb(tmp_path / "edge-0.ring") < 4_096


def test_no_secret_reaches_the_files_of_the_spool(tmp_path):
    secret = "correct-horse-battery"
    spool = Spool(tmp_path / "edge-0.ring", CLOCK, SMALL, Redactor([secret.encode()]))
    done = record(
        detail=f"upstream said {secret}",
        target=f"/v1/models?key={secret}",
        endpoint=f"/{secret}",
        client_request_id=secret,
        tags=f"team={secret}",
        attempts=[Attempt(n=1, deployment="d", error=f"bad {secret}", upstream_request_id=secret)],
    )
    spool.open(done.id, START_US, "POST", f"/v1/models?key={secret}").close(done)
    frame = spool.open(IDS.new(), START_US, "POST", "/")
    frame.note(alias=secret, decisions=[(0, STEP_NUMBER["model"], "model.unknown", "refused", secret)])
    frame.note(client_request_id=secret)
    spool.append(
        Addendum(id=IDS.new(), organization_id=UUID(int=1), decisions=[Decision(1, "grant", "r", "v", secret)])
    )
    for _ in range(600):
        each = record(detail=secret)
        spool.open(each.id, START_US, "POST", "/").close(each)
    spool.close()

    assert len(list(tmp_path.glob("*.seg"))) > 0
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
    kept = {each.id: each for each in drain(spool_at(tmp_path))}[done.id]
    assert kept.decisions[-1].detail == "upstream said [redacted:secret]"
    assert (kept.client_request_id, kept.rule) == ("[redacted:secret]", done.rule)
    assert kept.tags == "team=[redacted:secret]"
