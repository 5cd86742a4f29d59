import io
import json

from interlock.foundation.clock import SystemClock
from interlock.foundation.supervisor import LogStream, RotatingFile


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_file_gets_json_and_a_terminal_gets_lines_with_the_role_in_front(tmp_path):
    terminal = Terminal()
    log = LogStream(terminal, RotatingFile(tmp_path / "interlock.log", 1 << 20, 7), SystemClock())
    record = {"ts": "2026-01-02T03:04:05.678Z", "level": "info", "event": "listening", "role": "edge", "fd": 3}
    log.line("edge-1", json.dumps(record).encode())
    log.line("edge-1", b"Traceback (most recent call last):")
    log.close()
    assert terminal.getvalue().splitlines()[0] == "edge-1       03:04:05 listening fd=3"
    assert "WARNING output text=Traceback" in terminal.getvalue().splitlines()[1]
    lines = [json.loads(line) for line in (tmp_path / "interlock.log").read_text().splitlines()]
    assert lines[0] == record
    assert lines[1]["role"] == "edge-1"


def test_files_rotate_at_their_size_and_only_so_many_are_kept(tmp_path):
    file = RotatingFile(tmp_path / "interlock.log", 40, 3)
    for number in range(10):
        file.write(b"%018d\n" % number)
    file.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["interlock.log", "interlock.log.1", "interlock.log.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in ("interlock.log.2", "interlock.log.1", "interlock.log"))
    assert [int(line) for line in kept.split()] == [4, 5, 6, 7, 8, 9]
    assert (tmp_path / "interlock.log").stat().st_mode & 0o777 == 0o600


def test_a_reader_that_went_away_does_not_end_the_platform(tmp_path):
    log = LogStream(ClosedPipe(), RotatingFile(tmp_path / "log", 1 << 20, 2), SystemClock())
    log.event("one")
    log.event("two")
    log.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 2
