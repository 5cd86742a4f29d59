"""What the requests of one shipment used together: those that are alike but for their figures are added up.

Writes nothing into the store; roll-ups do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from interlock.foundation.telemetry.records import RequestRecord

MICROS: Final = 1_000_000
MINUTE_US: Final = 60_000_000


@dataclass(slots=True)
class Tally:
    """Requests that began in one minute and are alike in what `likeness` names, with their figures together.

    `record` is one of them; its own figures, its id and its decisions are not the others'.
    """

    record: RequestRecord
    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd_micros: int = 0

    def add(self, record: RequestRecord) -> None:
        """Add the figures of one request; what nobody counted adds nothing."""
        usage, usd = record.usage, record.cost.usd
        self.requests += 1
        self.input_tokens += usage.input_tokens or 0
        self.cached_input_tokens += usage.cached_input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        self.reasoning_tokens += usage.reasoning_tokens or 0
        if usd is not None:
            self.cost_usd_micros += int(Decimal(usd) * MICROS)


def likeness(record: RequestRecord) -> tuple[Any, ...]:
    """Return what records of one tally, and of one kind of rows, have in common."""
    # Numbers of ids are hashed faster than ids.
    organization, workspace, key, cost = record.organization_id, record.workspace_id, record.key_id, record.cost
    return (
        record.started_us // MINUTE_US, record.complete, organization and organization.int,
        workspace and workspace.int, key and key.int, record.endpoint, record.outcome, record.status, record.alias,
        record.deployment, record.arm, record.tags, cost.price_version, cost.usd is None, not record.attempts,
    )  # fmt: skip


def tallied(records: Iterable[RequestRecord]) -> list[Tally]:
    """Return the tallies of records."""
    found: dict[tuple[Any, ...], Tally] = {}
    for record in records:
        like = likeness(record)
        tally = found.get(like)
        if tally is None:
            tally = found[like] = Tally(record)
        tally.add(record)
    return list(found.values())
