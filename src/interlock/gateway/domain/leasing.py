"""What a worker, the machine's broker and the store say to each other about limits.

Carries nothing by itself: calls in one process, frames on a socket, or one statement of the store do.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol
from uuid import UUID

import msgspec

from interlock.gateway.domain.buckets import Bucket


class Verdict(StrEnum):
    """How an ask ended: all of it is taken, none of it is, or nobody knows the level."""

    OK = "ok"
    SHORT = "short"
    UNAVAILABLE = "unavailable"


class LeaseMode(StrEnum):
    """Who decided: the worker's own lease, the store, or the machine's share while the store is away."""

    LEASED = "leased"
    EXACT = "exact"
    SHARE = "share"


class Take(msgspec.Struct, array_like=True):
    """One request's needs, all or nothing over what is enforced, and leases that the worker wants on top.

    All buckets belong to one organization and come in the order of their ids; needs are 0 in a renewal.
    """

    buckets: list[Bucket]
    needs: list[int]
    enforced: list[bool]
    leases: list[int]


class Taken(msgspec.Struct, array_like=True):
    """The answer: by bucket its level, whether it was short, and what was leased; `workers` share a bucket."""

    verdict: Verdict
    mode: LeaseMode = LeaseMode.EXACT
    levels: list[int] = []
    shorts: list[bool] = []
    leased: list[int] = []
    workers: int = 1


class Give(msgspec.Struct, array_like=True):
    """What a worker reports of a bucket: settled (below 0 a debt), unused and given back, used of its lease."""

    bucket: Bucket
    credit: int = 0
    back: int = 0
    spent: int = 0


class Flight(msgspec.Struct):
    """One statement of one machine about one organization; `fence` rises with every flight that is not a repeat."""

    organization_id: UUID
    owner: UUID
    fence: int
    buckets: list[Bucket]
    credits: list[int]
    backs: list[int]
    held: list[int]
    leases: list[int]
    asks: list[Take] = []


class Landed(msgspec.Struct):
    """What the store answered: levels and leases by bucket, and of each ask whether each of its buckets was short."""

    levels: list[int]
    leased: list[int]
    shorts: list[list[bool]]


def returned(take: Take, taken: Taken) -> list[Give]:
    """Return what gives back an answer that nobody waits for any more."""
    gives = []
    for at, bucket in enumerate(take.buckets):
        is_taken = taken.verdict is Verdict.OK and not taken.shorts[at]
        need, leased = take.needs[at] if is_taken else 0, taken.leased[at]
        if need or leased:
            slots = need + leased
            gives.append(Give(bucket, back=slots) if bucket.is_slots else Give(bucket, credit=need, back=leased))
    return gives


class LimitStore(Protocol):
    """Who holds the levels for all machines."""

    @property
    def is_up(self) -> bool:
        """Whether it answered its last question in time."""

    async def fly(self, flight: Flight) -> Landed:
        """Decide a flight. An error says nothing of whether it was decided."""

    async def heartbeat(self, machine: UUID) -> int:
        """Say that the machine is there; return how many are."""


class LimitBroker(Protocol):
    """Who leases for all workers of a machine."""

    async def take(self, worker: UUID, take: Take) -> Taken:
        """Decide one request, in order of arrival."""

    def give(self, worker: UUID, gives: Sequence[Give]) -> None:
        """Note what a worker settled, used, or gives back."""

    def adopt(self, worker: UUID, slots: Sequence[tuple[Bucket, int]]) -> None:
        """Note the slots that a worker holds, when it comes to a broker that is new to it."""
