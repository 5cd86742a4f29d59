"""How big an edge has to be for a load: the figures of `interlock capacity gateway`, in their printed order.

Measures nothing; the two costs in microseconds come from the benchmarks.
"""

import math
from dataclasses import dataclass
from typing import Final

UTILIZATION_TARGET: Final = 0.6
BYTES_PER_TOKEN_IN: Final = 4
BYTES_PER_EVENT_OUT: Final = 200
STORY_BYTES: Final = 1_100
MINUTES_PER_DAY: Final = 1_440


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the edge: requests a minute and tokens a request; costs in microseconds."""

    rpm: float
    input_tokens: float
    output_tokens: float
    stream_tokens_per_second: float = 50.0
    us_per_event: float = 23.0
    us_per_request: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer; the fields are the printed lines."""

    tokens_per_minute: int
    tokens_per_second: int
    requests_per_second: float
    output_tokens_per_second: int
    concurrent_streams: int
    edge_cores: float
    edge_workers: int
    ingress_bytes_per_second: int
    egress_bytes_per_second: int
    requests_per_day: int
    story_bytes_per_day: int

    def lines(self) -> list[str]:
        """Return `name: value` in the documented order."""
        return [f"{name}: {getattr(self, name)}" for name in self.__dataclass_fields__]


def size(load: Load) -> Capacity:
    """Return the figures for a load. Streams by Little's law, one event a token, workers at 60 % use."""
    per_second = load.rpm / 60
    output_per_second = load.rpm * load.output_tokens / 60
    cores = (output_per_second * load.us_per_event + per_second * load.us_per_request) / 1_000_000
    tokens_per_minute = load.rpm * (load.input_tokens + load.output_tokens)
    requests_per_day = load.rpm * MINUTES_PER_DAY
    return Capacity(
        tokens_per_minute=_whole(tokens_per_minute),
        tokens_per_second=_whole(tokens_per_minute / 60),
        requests_per_second=round(per_second, 2),
        output_tokens_per_second=_whole(output_per_second),
        concurrent_streams=_up(per_second * load.output_tokens / load.stream_tokens_per_second),
        edge_cores=round(cores, 2),
        edge_workers=_up(cores / UTILIZATION_TARGET),
        ingress_bytes_per_second=_whole(load.rpm * load.input_tokens * BYTES_PER_TOKEN_IN / 60),
        egress_bytes_per_second=_whole(output_per_second * BYTES_PER_EVENT_OUT),
        requests_per_day=_whole(requests_per_day),
        story_bytes_per_day=_whole(requests_per_day * STORY_BYTES),
    )


def _whole(value: float) -> int:
    return math.floor(value + 0.5)


def _up(value: float) -> int:
    # What floating point adds behind the ninth digit must not round a whole number up.
    return math.ceil(round(value, 9))
