"""What a request adds to the figures of usage: who is charged, for what, and how much.

Adds nothing up; the store does.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from interlock.foundation.telemetry import RequestRecord
from interlock.gateway.domain.arms import SHADOW

TAGS_MAX: Final = 10
_TAG: Final = re.compile(r"([A-Za-z0-9_.-]{1,64})=([A-Za-z0-9_.:/@+-]{1,128})")
# With the other columns of its key a row of usage has to fit an index.
_TAG_SET_CHARS_MAX: Final = 2_048
_REFUSED: Final = 400
_NOBODY: Final = UUID(int=0)
_MINUTE_US: Final = 60_000_000
_HOUR_US: Final = 3_600_000_000


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

    def add(self, record: RequestRecord) -> None:
        """Add one request; one that was answered without a model server, as again, used nothing.

        One without a known price cost nothing here.
        """
        if not record.attempts:
            if record.status < _REFUSED:
                self.requests += 1
            else:
                self.refused += 1
            return
        usage = record.usage
        self.requests += 1
        self.input_tokens += usage.input_tokens or 0
        self.cached_input_tokens += usage.cached_input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        self.reasoning_tokens += usage.reasoning_tokens or 0
        if record.cost.usd is None:
            self.unpriced += 1
        else:
            self.cost_usd_micros += int(Decimal(record.cost.usd) * 1_000_000)

    def join(self, other: "Figures") -> None:
        """Add the figures of another row."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def rolled_up(records: Iterable[RequestRecord]) -> dict[Place, Figures]:
    """Return what records add, by minute; those of nobody, and those that are no inference, add nothing."""
    # Numbers of ids are hashed faster than ids, and a batch has few places.
    found: dict[tuple[int | str, ...], tuple[Place, Figures]] = {}
    for record in records:
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
        held[1].add(record)
    return dict(found.values())


def by_hour(minutes: dict[Place, Figures]) -> dict[Place, Figures]:
    """Return the figures of minutes by their hours."""
    hours: dict[Place, Figures] = {}
    for place, figures in minutes.items():
        hour = replace(place, bucket_us=place.bucket_us // _HOUR_US * _HOUR_US)
        hours.setdefault(hour, Figures()).join(figures)
    return hours


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
