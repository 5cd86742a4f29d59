"""What a policy shows to the gate `scheduler-slo`: a trace replayed at several loads, one output a load and seed.

Opens no file and asks no gate. The suite is made of the same figures: accepted requests keep their objectives, final
promises are kept, and not many fewer requests are in time than with the policy that decides today.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from interlock.scheduler.domain.replay import ReplayOptions, compare
from interlock.scheduler.domain.trace import Seeded, TraceRow

ACCEPTED_MIN: Final = 0.99
# What attainment may fall by against the policy that decided when the gate was made.
FALL_MAX: Final = 0.05
_FIGURES: Final = ("attainment", "accepted_attainment", "broken_promises", "late_decision_s_max")
Outputs = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A trace and how often it is lived through: `repeats` seeds at each load, from 1."""

    rows: Sequence[TraceRow]
    options: ReplayOptions
    repeats: int = 5


def outputs_of(replayed: Replayed, seeded: Callable[[int], Seeded]) -> Outputs:
    """Return the outputs of a recording, by the key of their case. Raises `ValueError` for fewer than two rows."""
    found: Outputs = {}
    for seed in range(1, replayed.repeats + 1):
        once = compare(replayed.rows, replace(replayed.options, seeds=(seed,)), seeded)
        for row in once["rows"]:
            figures = {"load": row["load"], "seed": seed, **{name: row[name] for name in _FIGURES}}
            found.setdefault(key_of(row["load"]), []).append(msgspec.json.encode(figures).decode())
    return found


def suite_of(name: str, live: Mapping[str, Sequence[str]], accepted_min: float = ACCEPTED_MIN) -> dict[str, Any]:
    """Return the suite of what the policy of today shows, as `POST /v1/evals/suites` takes it."""
    cases = [_case(key, texts, accepted_min) for key, texts in live.items()]
    return {"name": name, "kind": "must_pass", "cases": cases}


def gate_of(name: str, pool: str, repeats: int) -> dict[str, Any]:
    """Return the gate of a pool over that suite, as `POST /v1/gates` takes it."""
    check = {"name": name, "suite": name, "rule": "must_pass", "repeats": repeats, "accept_recorded": True}
    return {"name": name, "route": f"pool:{pool}", "risk_tier": "low", "checks": [check]}


def recording_of(digest: str, outputs: Outputs) -> dict[str, Any]:
    """Return a target of the kind `recorded`."""
    return {"kind": "recorded", "artifact_digest": digest, "outputs": outputs}


def key_of(load: float) -> str:
    """Return the key of the case of a load."""
    return f"load-{load:g}"


def _case(key: str, texts: Iterable[str], accepted_min: float) -> dict[str, Any]:
    least = min(msgspec.json.decode(text)["attainment"] for text in texts)
    wanted = {
        "type": "object",
        "required": list(_FIGURES),
        "properties": {
            "accepted_attainment": {"type": "number", "minimum": accepted_min},
            "attainment": {"type": "number", "minimum": round(max(0.0, least - FALL_MAX), 6)},
            "broken_promises": {"type": "number", "maximum": 0},
        },
    }
    asked = f"The pool's trace, replayed at {key.removeprefix('load-')} x its capacity."
    return {
        "key": key,
        "input": {"messages": [{"role": "user", "content": asked}]},
        "oracle": [{"type": "json_schema", "value": wanted}],
    }
