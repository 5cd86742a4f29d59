"""How parts of one story that several processes wrote become one; the order of arrival does not matter.

Pure: takes and returns records.
"""

from collections.abc import Iterable

import msgspec

from interlock.foundation.ids import created_ms
from interlock.foundation.telemetry.records import Addendum, Decision, RequestRecord


def stub_record(addendum: Addendum) -> RequestRecord:
    """Return the incomplete record of a request of which only another role's part has arrived."""
    return RequestRecord(
        id=addendum.id,
        started_us=created_ms(addendum.id) * 1_000,
        complete=False,
        organization_id=addendum.organization_id,
        workspace_id=addendum.workspace_id,
        outcome="",
        status=0,
    )


def extended(record: RequestRecord, addendum: Addendum) -> RequestRecord:
    """Return the record with the decisions and links of another role, each once."""
    known = {(link.kind, link.id) for link in record.links}
    links = [*record.links, *(link for link in addendum.links if (link.kind, link.id) not in known)]
    decisions = _ordered(record.decisions, addendum.decisions)
    return msgspec.structs.replace(record, decisions=decisions, links=links)


def joined(stored: RequestRecord | None, arriving: RequestRecord) -> RequestRecord:
    """Return what holds after `arriving`: a complete record is final, an incomplete one gives up all but its parts."""
    if stored is None:
        return arriving
    if stored.complete:
        return stored
    part = Addendum(
        id=stored.id,
        organization_id=stored.organization_id or arriving.organization_id or stored.id,
        decisions=stored.decisions,
        links=stored.links,
    )
    return extended(arriving, part)


def _ordered(first: Iterable[Decision], second: Iterable[Decision]) -> list[Decision]:
    # Not the detail: at rest it may be a shortened copy of the one that arrives again.
    unique: dict[tuple[int, str, str, str], Decision] = {}
    for each in (*first, *second):
        unique.setdefault((each.at_us, each.step, each.rule, each.verdict), each)
    return sorted(unique.values(), key=lambda each: each.at_us)
