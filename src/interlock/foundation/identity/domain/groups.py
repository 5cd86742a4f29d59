"""The closure of nested groups: every group that a principal is in, through how many others ever.

Pure; cycles are harmless, since a group is visited once.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from uuid import UUID


def closure(member: UUID, groups_of: Mapping[UUID, Iterable[UUID]]) -> dict[UUID, tuple[UUID, ...]]:
    """Return every group of a member with the chain of groups that leads to it, shortest first.

    `groups_of` maps a user, service account or group to the groups that hold it directly.
    """
    found: dict[UUID, tuple[UUID, ...]] = {}
    waiting: deque[tuple[UUID, tuple[UUID, ...]]] = deque([(member, ())])
    while waiting:
        current, via = waiting.popleft()
        for group in groups_of.get(current, ()):
            if group not in found and group != member:
                found[group] = via
                waiting.append((group, (*via, group)))
    return found
