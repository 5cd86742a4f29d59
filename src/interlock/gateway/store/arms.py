"""Counts of arms to rows and back.

Opens no transactions; services and loops do.
"""

from typing import Any
from uuid import UUID

from interlock.contracts.arms import ArmSecond, BadCounts
from interlock.foundation.store import Queries, Transaction
from interlock.gateway.domain.arm_counts import ERRORS, METRICS, SLOW, ArmCount, Place
from interlock.gateway.domain.arms import HASH_BYTES, WHOLE_BP

SQL = Queries("interlock.gateway")


async def add_counts(tx: Transaction, edge: UUID, counts: dict[Place, ArmCount]) -> None:
    """Write what one edge process counted; doing it again changes nothing."""
    rows = []
    for (organization_id, alias, second, version, arm, weight_bp), count in counts.items():
        errors, slow = count.bad[ERRORS], count.bad[SLOW]
        rows.append((
            organization_id, alias, version, arm, second, edge, weight_bp, count.units, count.requests,
            errors.requests, b"".join(errors.units), slow.requests, b"".join(slow.units),
        ))  # fmt: skip
    await tx.executemany(SQL.add_arm_counts, rows)


async def read_counts(
    tx: Transaction, organization_id: UUID, alias: str, since_second: int, until_second: int
) -> list[ArmSecond]:
    """Return arms second by second, the edges of each added up, a bad unit of two edges counted once.

    A second in which the weight changed, or which two edges saw by two weights, is there once a weight.
    """
    merged: dict[tuple[int, int, str, int], list[Any]] = {}
    for row in await tx.fetch(SQL.arm_counts, organization_id, alias, since_second, until_second):
        merged.setdefault((row["second"], row["version"], row["arm"], row["weight_bp"]), []).append(row)
    return [_second(alias, place, rows) for place, rows in merged.items()]


def _second(alias: str, place: tuple[int, int, str, int], rows: list[Any]) -> ArmSecond:
    second, version, arm, weight_bp = place
    return ArmSecond(
        route=alias,
        version=version,
        arm=arm,
        second=second,
        weight=weight_bp / WHOLE_BP,
        units=sum(row["units"] for row in rows),
        requests=sum(row["requests"] for row in rows),
        bad={name: _bad(rows, name) for name in METRICS},
    )


def _bad(rows: list[Any], metric: str) -> BadCounts:
    units: set[bytes] = set()
    for row in rows:
        content = row[f"{metric}_units"]
        units.update(content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES))
    return BadCounts(sum(row[f"{metric}_requests"] for row in rows), frozenset(units))
