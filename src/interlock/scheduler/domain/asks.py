"""What every order of a pool takes and gives: asks, verdicts, the room of an engine. Integers, microseconds, tokens.

Decides nothing; `promises.py` is the platform's own order, `baselines.py` holds those it is compared with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, Protocol

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.plan import Kept
from interlock.scheduler.domain.share import Path


@dataclass(frozen=True, slots=True)
class ClassRules:
    """What a class promises, whether it is promised at all, and the share of service that is reserved for it."""

    ttft_us: int
    tpot_us: int | None
    is_promised: bool
    reserved_share: float


CLASSES: Final = {
    ServiceClass.INTERACTIVE: ClassRules(1_000_000, 50_000, is_promised=True, reserved_share=0.60),
    ServiceClass.STANDARD: ClassRules(5_000_000, 100_000, is_promised=True, reserved_share=0.25),
    ServiceClass.BATCH: ClassRules(60_000_000, None, is_promised=False, reserved_share=0.05),
}
Classes = Mapping[ServiceClass, ClassRules]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as an order sees it. `prefill` is uncached input, `output` what it is expected to generate.

    `is_repeat` marks a request that was offered before under the same id: it does not raise its tenant's demand again.
    """

    key: int
    path: Path
    service_class: ServiceClass
    arrived_us: int
    ttft_us: int
    prefill: int
    output: int
    is_repeat: bool = False

    @property
    def deadline_us(self) -> int:
        """When the first token is due."""
        return self.arrived_us + self.ttft_us

    @property
    def cost(self) -> int:
        """Weighted tokens: uncached input and twice the output."""
        return self.prefill + 2 * self.output


class Fate(StrEnum):
    """What became of an ask that was not granted."""

    QUEUED = "queued"
    DEADLINE_INFEASIBLE = "deadline_infeasible"
    FAIR_SHARE_EXCEEDED = "fair_share_exceeded"
    DISPLACED = "displaced"
    QUEUE_TIME_EXCEEDED = "queue_time_exceeded"
    TENANT_QUEUE_FULL = "tenant_queue_full"
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fate; `was_final` tells a promise that was broken from a provisional request that gave way.

    `first_us` is when the plan saw the first token, None where nothing was planned; `place` counts from 0. `gap_us` is
    the time per output token that no engine could make shorter, None where that was no reason.
    """

    key: int
    fate: Fate
    was_final: bool = False
    first_us: int | None = None
    tier: int = 0
    place: int = 0
    gap_us: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What the engines of a pool have left: free sequences, granted prefill without a first token, KV tokens.

    `seat_waits_us` are the times after which one seat, two, and so on surely come free; read where seats are short.
    `hold_us` is how long a request holds its seat, on the mean; 0 where nobody knows it yet. `kept` are the places of
    those who were told to come back; None for who comes back.
    """

    seats: int
    prefill_left: int
    kv_free: int
    seat_waits_us: tuple[int, ...] = ()
    hold_us: int = 0
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One finished step: how long it took, what it did, and whether anybody waited meanwhile."""

    duration_us: int
    prefill: int
    weighted: int
    is_backlogged: bool


class Take(Enum):
    """Whether an ask whose turn has come can go: now, not now, or it waits for an engine that none behind it wants."""

    YES = "yes"
    NO = "no"
    WAITS = "waits"


MayTake = Callable[[Ask], Take]


class Order(Protocol):
    """Admission and order of one pool. The host tells what happened, and grants what `next_grant` names."""

    # Orders without credit fill every free sequence at once and run steps of a fixed budget.
    has_credits: bool

    def arrive(self, now_us: int, ask: Ask, room: Room) -> list[Verdict]:
        """Queue the ask, or refuse it, or let it displace others."""
        ...

    def expire(self, now_us: int) -> list[Verdict]:
        """End what has waited too long."""
        ...

    def next_grant(self, now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the next ask out of the queue; None where the queue is empty or the room is used up.

        `may_take` is asked last. Where it says no, the ask stays first and nobody overtakes it; where the ask waits,
        an order may name one behind it.
        """
        ...

    def withdraw(self, key: int) -> None:
        """Take an ask out that still waits: its caller is gone."""
        ...

    def stepped(self, now_us: int, seen: StepSeen) -> None:
        """Learn from a step."""
        ...

    def settled(self, now_us: int, ask: Ask, output: int, prefill: int | None = None) -> None:
        """Correct the charge of an ask that ended; `prefill` is what it really read, where that is known."""
        ...

    def adopted(self, now_us: int, ask: Ask) -> None:
        """Charge an ask that a former leader granted."""
        ...

    @property
    def queued(self) -> int:
        """How many wait."""
        ...
