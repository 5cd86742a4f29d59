"""Walks a chain and says where it first differs from what was written.

Changes nothing and trusts nothing of the store but its bytes.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from interlock.foundation.audit.checkpoints import Checkpoint, CheckpointKeys
from interlock.foundation.audit.event import AuditEvent, first_prev_hash
from interlock.foundation.ids import format_id


class FindingCode(StrEnum):
    """What is wrong with a chain."""

    HASH_MISMATCH = "hash_mismatch"
    GAP = "gap"
    HEAD_MISMATCH = "head_mismatch"
    TAIL_TRUNCATED = "tail_truncated"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    SIGNATURE_INVALID = "signature_invalid"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first event of an organization that is not as it was written."""

    organization_id: UUID
    first_bad_seq: int
    code: FindingCode
    detail: str


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """Head and last row as one snapshot saw them; None where there is none."""

    head_seq: int | None
    head_hash: bytes | None
    last_seq: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome over all organizations that were asked for."""

    events: int
    organizations: int
    checkpoints: int
    finding: Finding | None = None

    def public(self) -> dict[str, Any]:
        """Return the object of `audit verify --json`."""
        if self.finding is None:
            return {
                "ok": True,
                "events": self.events,
                "organizations": self.organizations,
                "checkpoints": self.checkpoints,
            }
        return {
            "ok": False,
            "organization_id": format_id("org", self.finding.organization_id),
            "first_bad_seq": self.finding.first_bad_seq,
            "code": str(self.finding.code),
            "detail": self.finding.detail,
        }


@dataclass(slots=True)
class ChainWalk:
    """The state of one walk: feed it the rows in the order of seq, then ask `finish`."""

    organization_id: UUID
    end: ChainEnd
    checkpoints: Sequence[Checkpoint]
    keys: CheckpointKeys
    events: int = 0
    _prev_hash: bytes = b""
    _found: list[Finding] = field(default_factory=list)
    _signed: dict[int, set[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prev_hash = first_prev_hash(self.organization_id)
        for each in self.checkpoints:
            if self.keys.is_signed(each):
                self._signed.setdefault(each.seq, set()).add(each.hash)
            else:
                self._report(each.seq, FindingCode.SIGNATURE_INVALID, f"checkpoint by key {each.key_id}")

    @property
    def is_broken(self) -> bool:
        """Whether a row was found that does not continue the chain; later rows cannot be judged then."""
        return any(each.code in {FindingCode.GAP, FindingCode.HASH_MISMATCH} for each in self._found)

    def feed(self, event: AuditEvent) -> None:
        """Judge the next row."""
        expected_seq = self.events + 1
        if event.seq > expected_seq:
            self._report(expected_seq, FindingCode.GAP, f"the next row is {event.seq}")
        elif event.seq < expected_seq:
            self._report(event.seq, FindingCode.HASH_MISMATCH, "two rows have this seq")
        elif event.prev_hash != self._prev_hash:
            self._report(event.seq, FindingCode.HASH_MISMATCH, "prev_hash is not the hash of the row before")
        elif event.hash != event.expected_hash(self._prev_hash):
            self._report(event.seq, FindingCode.HASH_MISMATCH, "the row does not have the hash of its content")
        if self.is_broken:
            return
        self.events += 1
        self._prev_hash = event.hash
        if self._signed.get(event.seq, {event.hash}) != {event.hash}:
            self._report(event.seq, FindingCode.CHECKPOINT_MISMATCH, "a signed checkpoint has another hash")

    def finish(self) -> Finding | None:
        """Compare with the head and with the checkpoints beyond the rows; return the first finding."""
        last = self.events
        if not self.is_broken:
            self._judge_end(last)
        beyond = [seq for seq in self._signed if seq > last]
        if beyond and not self.is_broken:
            self._report(last + 1, FindingCode.TAIL_TRUNCATED, f"a checkpoint signed {max(beyond)} events")
        # A row goes before a checkpoint of the same seq, as the reports came in that order of strength.
        return min(self._found, key=lambda each: (each.first_bad_seq, _STRENGTH.index(each.code)), default=None)

    def _judge_end(self, last: int) -> None:
        head_seq, head_hash = self.end.head_seq, self.end.head_hash
        if head_seq is None:
            if self.end.last_seq:
                self._report(1, FindingCode.HEAD_MISMATCH, "the organization has rows and no head")
            return
        if (self.end.last_seq or 0) > head_seq:
            self._report(head_seq + 1, FindingCode.HEAD_MISMATCH, f"rows go on to {self.end.last_seq}")
        elif head_seq > last:
            self._report(last + 1, FindingCode.TAIL_TRUNCATED, f"the head stands at {head_seq}")
        elif head_hash != self._prev_hash:
            self._report(max(head_seq, 1), FindingCode.HEAD_MISMATCH, "the head has another hash than the last row")

    def _report(self, seq: int, code: FindingCode, detail: str) -> None:
        self._found.append(Finding(self.organization_id, seq, code, detail))


_STRENGTH = (
    FindingCode.HASH_MISMATCH,
    FindingCode.GAP,
    FindingCode.TAIL_TRUNCATED,
    FindingCode.HEAD_MISMATCH,
    FindingCode.CHECKPOINT_MISMATCH,
    FindingCode.SIGNATURE_INVALID,
)


async def walk(walked: ChainWalk, rows: AsyncIterator[AuditEvent]) -> Finding | None:
    """Feed all rows, up to the first break."""
    async for event in rows:
        walked.feed(event)
        if walked.is_broken:
            break
    return walked.finish()


def known_of(organization_id: UUID, *sources: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return the distinct checkpoints of one organization out of several places."""
    return list({each: None for source in sources for each in source if each.organization_id == organization_id})
