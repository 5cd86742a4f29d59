"""Bounds of the spool, the shipper, the stories and the logs.

Reads nothing by itself; `foundation.config.load` fills it as section `telemetry`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Section `telemetry`."""

    ring_bytes: int = setting(
        64 << 20, "Size of the memory-mapped ring of one process, bytes.", minimum=1 << 16, maximum=1 << 32
    )
    spill_bytes: int = setting(
        256 << 10,
        "Bytes that move from a full ring to a segment file at once; as much stays free for copies.",
        minimum=1 << 12,
        maximum=1 << 26,
    )
    segment_bytes: int = setting(16 << 20, "Size of one segment file, bytes.", minimum=1 << 14, maximum=1 << 30)
    segments_bytes_max: int = setting(
        1 << 30, "All segment files of one process together, bytes.", minimum=0, maximum=1 << 40
    )
    slim_percent: int = setting(
        80, "Fill of the segment files, percent, from which details of decisions are dropped.", minimum=0, maximum=100
    )
    frame_bytes_max: int = setting(
        64 << 10, "Largest frame in the spool, bytes; details are cut to fit.", minimum=1 << 12, maximum=1 << 16
    )
    ship_interval_ms: int = setting(250, "Pause between two shipments, milliseconds.", minimum=10, maximum=60_000)
    ship_frames_max: int = setting(500, "Frames of one shipment.", minimum=1, maximum=10_000)
    ship_retry_s: float = setting(
        1.0, "Pause after a shipment that the store refused, seconds.", minimum=0.05, maximum=60
    )
    story_bytes_max: int = setting(
        2_048, "Largest story before compression, bytes; the longest detail is cut.", minimum=512, maximum=1 << 20
    )
    story_days: int = setting(14, "Days that stories are kept.", minimum=1, maximum=400)
    event_days: int = setting(3, "Days that stream events are kept.", minimum=1, maximum=400)
    retention_interval_s: float = setting(3_600.0, "Pause between two looks at the partitions, seconds.", minimum=1)
    retention_lock_ms: int = setting(2_000, "Wait for the lock to drop a partition, milliseconds.", minimum=1)
    abandoned_interval_s: float = setting(60.0, "Pause between two looks for abandoned rings, seconds.", minimum=0.05)
    search_rows_max: int = setting(200, "Rows of one page of a search.", minimum=1, maximum=1_000)
    log_line_bytes_max: int = setting(8 << 10, "Longest log line, bytes.", minimum=512, maximum=1 << 20)
    log_lines_per_request_max: int = setting(20, "Log lines of one request.", minimum=1, maximum=10_000)
    log_requests_tracked_max: int = setting(4_096, "Requests whose log lines are counted at once.", minimum=16)
    log_file_bytes: int = setting(64 << 20, "Size at which a log file is rotated, bytes.", minimum=1 << 16)
    log_files_max: int = setting(7, "Log files kept of one role.", minimum=1, maximum=1_000)
