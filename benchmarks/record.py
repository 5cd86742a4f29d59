"""Keeps figures: appends one object a figure to `results.json`, beside the machine it was measured on.

Judges nothing but whether a goal was met; a benchmark prints its own table.
"""

import json
import os
import platform
from pathlib import Path

from interlock.foundation.clock import SystemClock, rfc3339

RESULTS = Path(__file__).parent / "results.json"


def record(name: str, value: float, unit: str, better: str, goal: float | None = None) -> bool:
    """Append a figure and return whether it meets its goal; `better` is `lower` or `higher`."""
    met = goal is None or (value <= goal if better == "lower" else value >= goal)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept.append(
        {
            "name": name,
            "value": round(value, 6),
            "unit": unit,
            "better": better,
            "goal": goal,
            "met": met,
            "at": rfc3339(SystemClock().now_us()),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        }
    )
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    return met
