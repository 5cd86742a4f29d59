"""What a request adds to the figures of usage: who is charged, for what, and how much.

Adds nothing up; the store does.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from interlock.foundation.telemetry import Tally
from interlock.gateway.domain.arms import SHADOW

TAGS_MAX: Final = 10
_TAG: Final = re.compile(r"([A-Za-z0-9_.-]{1,64})=([A-Za-z0-9_.:/@+-]{1,128})")
# With the other columns of its key a row of usage has to fit an index.
_TAG_SET_CHARS_MAX: Final = 2_048
_REFUSED: Final = 400
_NOBODY: Final = UUID(int=0)
_MINUTE_US: Final = 60_000_000


class GroupBy(StrEnum):
    """What rows of usage are put together by."""

    KEY = "key"
    WORKSPACE = "workspace"
    MODEL = "model"
    TAG = "tag"


class Span(StrEnum):
    """How much time one row of usage covers."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Whom and what a row of usage is about; rows are locked in this order."""

    organization_id: UUID
    bucket_us: int
    workspace_id: UUID
    key_id: UUID
    alias: str
    deployment: str
    price_version: str
    tag_set: str


@dataclass(slots=True)
class Figures:
    """What is added to a row."""

    requests: int = 0
    refused: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd_micros: int = 0

    def add(self, tally: Tally) -> None:
        """Add requests; those that were answered without a model server, as again, used nothing.

        Those without a known price cost nothing here.
        """
        if not tally.record.attempts:
            if tally.record.status < _REFUSED:
                self.requests += tally.requests
            else:
                self.refused += tally.requests
            return
        self.requests += tally.requests
        self.input_tokens += tally.input_tokens
        self.cached_input_tokens += tally.cached_input_tokens
        self.output_tokens += tally.output_tokens
        self.reasoning_tokens += tally.reasoning_tokens
        self.cost_usd_micros += tally.cost_usd_micros
        if tally.record.cost.usd is None:
            self.unpriced += tally.requests


def rolled_up(tallies: Iterable[Tally]) -> dict[Place, Figures]:
    """Return what requests add, by minute; those of nobody, and those that are no inference, add nothing."""
    # Numbers of ids are hashed faster than ids.
    found: dict[tuple[int | str, ...], tuple[Place, Figures]] = {}
    for tally in tallies:
        record = tally.record
        # A copy for a version in the shadow is nobody's request; its tag says whose cost it is.
        is_charged = record.key_id is not None or record.arm == SHADOW
        if record.organization_id is None or record.alias is None or not is_charged:
            continue
        organization_id, bucket_us = record.organization_id, record.started_us // _MINUTE_US * _MINUTE_US
        workspace_id, key_id = record.workspace_id or _NOBODY, record.key_id or _NOBODY
        words = (record.alias, record.deployment or "", str(record.cost.price_version or ""), record.tags)
        known = (organization_id.int, bucket_us, workspace_id.int, key_id.int, *words)
        held = found.get(known)
        if held is None:
            held = found[known] = (Place(organization_id, bucket_us, workspace_id, key_id, *words), Figures())
        held[1].add(tally)
    return dict(found.values())


def parse_tags(given: bytes) -> str | None:
    """Return tags in the order of their names, or None where they are not of the form."""
    parts = [each.strip() for each in given.decode("latin-1").split(",")]
    found = {}
    for part in parts:
        match = _TAG.fullmatch(part)
        if match is None or match[1] in found:
            return None
        found[match[1]] = match[2]
    if len(found) > TAGS_MAX:
        return None
    return ",".join(f"{name}={found[name]}" for name in sorted(found))


def with_beta(tags: str, beta: str) -> str:
    """Return the tags of a request with that of a beta that it uses, by which usage tells how much each is used."""
    tag = f"beta={beta.replace(',', ' ')}"
    found = ",".join(sorted({*filter(None, tags.split(",")), tag}))
    return found if len(found) <= _TAG_SET_CHARS_MAX else tags
