"""The one log stream: what roles write, prefixed by role on a terminal, JSON otherwise, and rotated in `DIR/logs`.

Does not decide what is logged, and does not redact: roles do both before a line leaves them.
"""

import json
import sys
from pathlib import Path
from typing import IO, Any, TextIO

from interlock.foundation.clock import Clock, rfc3339

_TAG_CHARS = 12


class RotatingFile:
    """`interlock.log`, then `interlock.log.1` (newer) to `.N-1` (older); opened at the first line."""

    def __init__(self, path: Path, bytes_max: int, files_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._file: IO[bytes] | None = None
        self._size = 0

    def write(self, line: bytes) -> None:
        """Append one line, rotating first where it would not fit."""
        file = self._file or self._open()
        if self._size and self._size + len(line) > self._bytes_max:
            self._rotate()
            file = self._open()
        file.write(line)
        file.flush()
        self._size += len(line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self) -> IO[bytes]:
        self._file = self._path.open("ab")
        self._path.chmod(0o600)
        self._size = self._file.tell()
        return self._file

    def _rotate(self) -> None:
        self.close()
        for number in range(self._files_max - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)


class LogStream:
    """Takes lines of roles and events of the supervisor."""

    def __init__(self, stream: TextIO, file: RotatingFile | None, clock: Clock) -> None:
        self._stream = stream
        self._file = file
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._is_broken = False

    def event(self, name: str, *, level: str = "info", **fields: Any) -> None:
        """Write an event of the supervisor itself."""
        self._write("supervisor", self._record(level, "supervisor", name, fields))

    def line(self, tag: str, raw: bytes) -> None:
        """Write one line of a role's output; what is not a JSON object becomes an event `output`."""
        text = raw.decode("utf-8", "replace").rstrip()
        if not text:
            return
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            record = self._record("warning", tag, "output", {"text": text})
        self._write(tag, record)

    def close(self) -> None:
        """Close the log file; the stream belongs to the caller."""
        if self._file is not None:
            self._file.close()

    def _record(self, level: str, role: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"ts": rfc3339(self._clock.now_us()), "level": level, "event": name, "role": role, **fields}

    def _write(self, tag: str, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, default=str)
        if self._file is not None:
            try:
                self._file.write(line.encode() + b"\n")
            except OSError as error:
                # A full disk must not end the platform; the terminal still tells.
                self._show(f"log file: {error.strerror}")
        self._show(pretty(tag, record) if self._is_terminal else line)

    def _show(self, line: str) -> None:
        if self._is_broken:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._is_broken = True


def pretty(tag: str, record: dict[str, Any]) -> str:
    """Render a record for people: role, time of day, level where it matters, event, fields."""
    rest = {key: value for key, value in record.items() if key not in {"ts", "level", "event", "role"}}
    level = record.get("level", "info")
    words = [f"{tag:<{_TAG_CHARS}}", str(record.get("ts", ""))[11:19]]
    words += [level.upper()] if level not in {"info", "debug"} else []
    words += [str(record.get("event", ""))]
    words += [f"{key}={value}" for key, value in rest.items() if value not in (None, "")]
    return " ".join(words)


def standard_stream() -> TextIO:
    """Return where the log goes: standard error, so that standard output holds what `up` promises to print."""
    return sys.stderr
