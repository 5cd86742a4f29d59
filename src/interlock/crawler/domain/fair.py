"""Shares: of a round among workspaces and crawls, and of a host among the crawls that wait for it.

Takes no measure by itself; demands and weights come in.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Demand:
    """URLs that a crawl could use now."""

    crawl_id: UUID
    tenant: tuple[UUID, UUID]
    weight: float
    wanted: int


def max_min(total: float, wanted: Mapping[KeyT, tuple[float, float]]) -> dict[KeyT, float]:
    """Split `total` over `(demand, weight)`: nobody gets more than asked for, what is left goes to the others."""
    shares = dict.fromkeys(wanted, 0.0)
    open_ = {key for key, (demand, weight) in wanted.items() if demand > 0 and weight > 0}
    left = total
    while open_ and left > 1e-9:
        weight_sum = sum(wanted[key][1] for key in open_)
        level = left / weight_sum
        full = {key for key in open_ if wanted[key][0] - shares[key] <= level * wanted[key][1]}
        for key in full or open_:
            grant = wanted[key][0] - shares[key] if full else level * wanted[key][1]
            shares[key] += grant
            left -= grant
        if not full:
            break
        open_ -= full
    return shares


def split(total: int, demands: Sequence[Demand]) -> dict[UUID, int]:
    """Split a round over workspaces, weighted by their crawls' weights, then over each one's crawls."""
    by_tenant: dict[tuple[UUID, UUID], list[Demand]] = defaultdict(list)
    for each in demands:
        by_tenant[each.tenant].append(each)
    tenants = {
        tenant: (float(sum(each.wanted for each in group)), max(each.weight for each in group))
        for tenant, group in by_tenant.items()
    }
    grants: dict[UUID, int] = {}
    for tenant, share in max_min(float(total), tenants).items():
        crawls = {each.crawl_id: (float(each.wanted), each.weight) for each in by_tenant[tenant]}
        for crawl_id, part in max_min(share, crawls).items():
            # Rounded up, or a crowd of small shares would get nothing; slots bound what is really dialled.
            grants[crawl_id] = min(int(crawls[crawl_id][0]), int(part) + (part > int(part)))
    return grants


@dataclass(frozen=True, slots=True)
class QueueShare:
    """A crawl's queue at a host: how many URLs it offers, and what it is owed."""

    crawl_id: UUID
    weight: float
    deficit: float
    offered: int


def deal(queues: Sequence[QueueShare], count: int) -> tuple[dict[UUID, int], dict[UUID, float]]:
    """Return how many of `count` URLs each queue takes, and the deficits after; `crawler_lease` is the same in SQL."""
    order = sorted(
        ((rank - each.deficit) / each.weight, each.crawl_id) for each in queues for rank in range(1, each.offered + 1)
    )
    taken = {each.crawl_id: 0 for each in queues}
    for _, crawl_id in order[:count]:
        taken[crawl_id] += 1
    total, offering = sum(taken.values()), [each for each in queues if each.offered]
    weight_sum = sum(each.weight for each in offering)
    deficits = {each.crawl_id: each.deficit for each in queues}
    if len(offering) > 1:
        for each in offering:
            owed = each.deficit + total * each.weight / weight_sum - taken[each.crawl_id]
            deficits[each.crawl_id] = max(-16.0, min(16.0, owed))
    return taken, deficits
