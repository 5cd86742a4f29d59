"""Counts of the arms of a route, second by second: what a monitor judges a canary by.

Given by the gateway, used by evals. An arm without traffic is absent, never zero. Arms are `stable` and `canary`, and
`shadow`: requests of that one are copies that answered nobody, and belong to no units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from interlock.foundation.scope import Scope


@dataclass(frozen=True, slots=True)
class BadCounts:
    """Bad requests of one metric, and the units they belong to as 8-byte hashes, so that a session counts once."""

    requests: int
    units: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ArmSecond:
    """One arm in one second, all edges together. `weight` is the share in force, 0..1; a second of two weights is two.

    `units` counts the sticky units first seen since the weight last rose. Keys of `bad`: `errors`, `slow`, `flagged`.
    """

    route: str
    version: int
    arm: str
    second: int
    weight: float
    units: int
    requests: int
    bad: Mapping[str, BadCounts]


class ArmCounts(Protocol):
    """Reads counts that edges have shipped."""

    async def read(self, scope: Scope, route: str, *, since_second: int, until_second: int) -> Sequence[ArmSecond]:
        """Return `since_second <= second < until_second`, oldest first; a second is complete two seconds later."""
        ...
