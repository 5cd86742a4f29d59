"""Bounds of the pages: rows, live streams, exports.

Reads nothing by itself; `foundation.config.load` fills it as section `console`.
"""

from dataclasses import dataclass

from interlock.foundation.config import setting


@dataclass(frozen=True, slots=True)
class ConsoleConfig:
    """Section `console`."""

    rows: int = setting(50, "Rows of one page of a list.", minimum=1, maximum=200)
    searches_max: int = setting(
        8, "Most pages that are read to fill one page of a list, where it leaves requests out.", minimum=1, maximum=100
    )
    csv_rows_max: int = setting(5_000, "Most rows of one CSV export.", minimum=1, maximum=100_000)
    people_rows_max: int = setting(
        500, "Most roles, programs, or members through other groups that one page of people tells.",
        minimum=10, maximum=5_000,
    )  # fmt: skip
    overview_records_max: int = setting(
        2_000, "Most requests of the last hour that the overview counts; it says so where there were more.",
        minimum=1, maximum=20_000,
    )  # fmt: skip
    overview_tenants_max: int = setting(
        64, "Tenants whose last hour is kept between two looks; the longest unused one goes.", minimum=1, maximum=4_096
    )
    overview_reread_s: float = setting(
        30.0, "Pause between two full readings of the last hour, seconds; between them only the newest are read.",
        minimum=1, maximum=600,
    )  # fmt: skip
    overview_standing_s: float = setting(
        4.0, "How long the overview keeps how a system stands, between those who look, seconds.", minimum=0, maximum=600
    )
    live_interval_s: float = setting(1.0, "Pause between two events of a live page, seconds.", minimum=0.1, maximum=60)
    live_streams_max: int = setting(
        64, "Live pages that one control process serves at once; one more is told to come back.",
        minimum=1, maximum=4_096,
    )  # fmt: skip
    live_seconds_max: float = setting(
        60.0, "Longest live stream, seconds; the page then connects anew, and is authorized anew.",
        minimum=1, maximum=3_600,
    )  # fmt: skip
    playground_s: float = setting(
        300.0, "Longest answer that the playground waits for while it is streamed, seconds.", minimum=1, maximum=3_600
    )
    playground_whole_s: float = setting(
        50.0, "Longest answer that it waits for where it is shown whole, seconds; below `edge.control_s`.",
        minimum=1, maximum=3_600,
    )  # fmt: skip
    playground_calls_max: int = setting(
        32, "Calls of the playground that one control process has open at once; one more is told to come back.",
        minimum=1, maximum=4_096,
    )  # fmt: skip
    static_max_age_s: int = setting(
        31_536_000, "How long a browser keeps a file of ours, seconds; its address changes with its content.",
        minimum=0, maximum=31_536_000,
    )  # fmt: skip
