"""Logs: one JSON object a line, `ts level event request_id trace_id role` and fields, redacted last.

Decides no level and keeps no line; whoever writes more than a request may is told so once.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry.config import TelemetryConfig

_FIRST: Final = ("ts", "level", "event", "request_id", "trace_id", "role")
_encode: Final = msgspec.json.Encoder(enc_hook=repr, order=None).encode


class RequestName(Protocol):
    """What lines of a request are named by, read when a line is written."""

    @property
    def public_id(self) -> str:
        """The id as callers see it."""

    @property
    def trace_id(self) -> str | None:
        """The trace that the caller named."""


@dataclass(frozen=True, slots=True)
class NamedRequest:
    """A request of which nothing is learned later."""

    public_id: str
    trace_id: str | None = None


_REQUEST: Final[ContextVar[RequestName | None]] = ContextVar("interlock_request", default=None)


class _Sink(Protocol):
    def write(self, line: str) -> None: ...


class LineSink:
    """Writes lines to a stream, each at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a line and flush it."""
        self._stream.write(line + "\n")
        self._stream.flush()


class FileSink:
    """Writes lines to a file that is rotated by size; every one of its files is its owner's alone to read."""

    def __init__(self, path: Path, file_bytes: int, files_max: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._file_bytes = file_bytes
        self._files_max = files_max
        self._open()

    def write(self, line: str) -> None:
        """Write a line at once, into a new file where it would not fit."""
        raw = line.encode() + b"\n"
        if self._size + len(raw) > self._file_bytes and self._size:
            self._rotate()
        # One call a line: a kill leaves no half of one, and nothing to flush.
        self._size += os.write(self._file, raw)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        os.close(self._file)
        for number in range(self._files_max - 1, 0, -1):
            younger = self._numbered(number - 1) if number > 1 else self._path
            if younger.exists():
                younger.replace(self._numbered(number))
        if self._files_max == 1:
            self._path.unlink()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class RequestLimit:
    """Lets through the first lines of each request, then one `log_suppressed`, then none."""

    def __init__(self, lines_max: int, requests_max: int, on_suppressed: Callable[[], None] | None = None) -> None:
        self._lines_max = lines_max
        self._requests_max = requests_max
        self._on_suppressed = on_suppressed
        self._counts: OrderedDict[str, int] = OrderedDict()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return the event, or its replacement; raise `DropEvent` for one too many."""
        request_id = event.get("request_id")
        if not isinstance(request_id, str):
            return event
        count = self._counts.pop(request_id, 0) + 1
        self._counts[request_id] = count
        if len(self._counts) > self._requests_max:
            self._counts.popitem(last=False)
        if count <= self._lines_max:
            return event
        if self._on_suppressed is not None:
            self._on_suppressed()
        if count > self._lines_max + 1:
            raise structlog.DropEvent
        return {"level": "warning", "event": "log_suppressed", "request_id": request_id, "lines_max": self._lines_max}


class Rendered:
    """Turns an event into its line: fields in order, at most `line_bytes_max`, redacted as the last thing."""

    def __init__(self, role: str, clock: Clock, redactor: Redactor, line_bytes_max: int) -> None:
        self._role = role
        self._clock = clock
        self._redactor = redactor
        self._line_bytes_max = line_bytes_max

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        """Return one line of JSON."""
        event["ts"] = rfc3339(self._clock.now_us())
        event["role"] = self._role
        ordered = {name: event.pop(name, None) for name in _FIRST} | dict(event)
        safe = self._redactor.value(_plain(ordered))
        line = _encode(safe)
        if len(line) > self._line_bytes_max:
            line = _encode(self._shortened(safe, len(line)))
        return line.decode()

    def _shortened(self, fields: dict[str, Any], size: int) -> dict[str, Any]:
        """Cut the longest fields until the line fits; the first six stay unless they are what is long."""
        fields["cut"] = True
        excess = size + len(b',"cut":true') - self._line_bytes_max
        by_size = sorted(fields, key=lambda name: -len(_encode(fields[name])))
        for name in by_size:
            if excess <= 0:
                break
            before = len(_encode(fields[name]))
            text = fields[name] if isinstance(fields[name], str) else _encode(fields[name]).decode()
            # Escaping may take six bytes for one, so what is kept is counted as if all of it were escaped.
            fields[name] = text[: max(0, before - excess) // 6]
            excess -= before - len(_encode(fields[name]))
        return fields


def configure_logs(  # noqa: PLR0913 -- one call at the start of a process names all it writes with
    role: str,
    stream: TextIO | None = None,
    file: Path | None = None,
    *,
    clock: Clock,
    redactor: Redactor,
    config: TelemetryConfig | None = None,
    level: int = logging.INFO,
    on_suppressed: Callable[[], None] | None = None,
) -> None:
    """Send every structlog event of this process to `stream`, or to `file`, or to both.

    Events of the standard library's `logging` take the same way.
    """
    bounds = config or TelemetryConfig()
    sinks: list[_Sink] = []
    if stream is not None:
        sinks.append(LineSink(stream))
    if file is not None:
        sinks.append(FileSink(file, bounds.log_file_bytes, bounds.log_files_max))
    processors: list[Processor] = [
        _name_request,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        RequestLimit(bounds.log_lines_per_request_max, bounds.log_requests_tracked_max, on_suppressed),
        Rendered(role, clock, redactor, bounds.log_line_bytes_max),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sinks),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(level, logging.WARNING))


def bind_request(request: RequestName | None) -> None:
    """Name the request of all events of this task from now on; for tasks alone, a callback would name it for others."""
    _REQUEST.set(request)


def _name_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request = _REQUEST.get()
    if request is not None:
        event.setdefault("request_id", request.public_id)
        event.setdefault("trace_id", request.trace_id)
    return event


class _Lines:
    """The innermost logger of structlog: every method takes a finished line."""

    def __init__(self, sinks: list[_Sink]) -> None:
        self._sinks = sinks

    def msg(self, line: str) -> None:
        for sink in self._sinks:
            sink.write(line)

    debug = info = warning = error = critical = exception = log = msg


class _Forward(logging.Handler):
    """Hands events of libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(
            record.levelno,
            "library_log",
            logger_name=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def _plain(value: Any) -> Any:
    """Return the value in terms of JSON; what JSON does not know is shown as its `repr`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return repr(value)
