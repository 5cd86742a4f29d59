"""What an engine says about itself, normalised over the kinds of servers there are, and how far that is believed.

Fetches and parses nothing; `adapters/metrics_names.py` reads the pages. A figure that an engine does not give is
None, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_DRIFT_SHARE: Final = 0.2
_STRIKES_MAX: Final = 3
_SUSPENDED_SCRAPES: Final = 30
# A page that says "full" for ever may slow a pool; it must not stop it.
_OWN_SEATS_SHARE: Final = 0.25
_KV_LIMIT: Final = 0.90
KV_LIMIT_FLOOR: Final = 0.60
_KV_BACKOFF: Final = 0.9
_KV_RECOVERY_A_MINUTE: Final = 0.01
_MINUTE_US: Final = 60_000_000


class Dialect(StrEnum):
    """The kinds of server; each has its own names for the same figures."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TGI = "tgi"
    LLAMACPP = "llamacpp"
    OPENAI = "openai"
    EMBEDDED = "embedded"


class Readiness(StrEnum):
    """What the health page of an engine says; `down` where nobody answers."""

    READY = "ready"
    STARTING = "starting"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """The figures of one scrape. Shares are 0 to 1; `also` holds what only some dialects have, by a common name."""

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    kv_tokens: int | None = None
    prefix_hit_share: float | None = None
    also: Mapping[str, float] = field(default_factory=dict)

    @property
    def held(self) -> int | None:
        """Requests inside the engine, running and waiting."""
        return None if self.running is None else self.running + (self.waiting or 0)


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What a probe found at a URL. `slots` is known for engines that tell how many sequences run at once."""

    url: str
    dialect: Dialect
    readiness: Readiness
    models: tuple[str, ...] = ()
    context_tokens: int | None = None
    slots: int | None = None
    gauges: EngineGauges = field(default_factory=EngineGauges)

    @property
    def state(self) -> dict[str, object]:
        """The normalised state: equal for equal engines, whatever their dialect."""
        return {
            "readiness": self.readiness.value,
            "model": self.models[0] if self.models else None,
            "context_tokens": self.context_tokens,
            "running": self.gauges.running,
            "waiting": self.gauges.waiting,
            "kv_usage": self.gauges.kv_usage,
            "kv_tokens": self.gauges.kv_tokens,
            "prefix_hit_share": self.gauges.prefix_hit_share,
        }


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """What the scheduler itself knows of an engine at a scrape.

    `in_flight` are its grants in use, `streaming` those whose tokens were reported since the last scrape, `events`
    a counter that rises with each grant, first token and settlement.
    """

    in_flight: int
    streaming: int
    events: int


class Trust(StrEnum):
    """Whether scraped gauges are used."""

    TRUSTED = "trusted"
    MISSING = "missing"
    FROZEN = "frozen"
    LYING = "lying"


class GaugeTrust:
    """Own accounting decides; a believed page only adds the seats that others take on the same engine.

    A scrape moves that figure by a fifth of the difference, so a stale page cannot swing it. A page that stands still
    while work comes and goes, or that contradicts tokens just received, is not used until it has made sense again
    for a while.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._drift = 0.0
        self._last: EngineGauges | None = None
        self._last_events = 0
        self._frozen = 0
        self._lies = 0
        self._suspended = 0
        self._is_missing = True

    @property
    def verdict(self) -> Trust:
        """What is thought of the gauges after the last scrape."""
        if self._is_missing:
            return Trust.MISSING
        if self._frozen >= _STRIKES_MAX:
            return Trust.FROZEN
        return Trust.LYING if self._suspended else Trust.TRUSTED

    @property
    def others(self) -> int:
        """Seats that requests of others take; 0 unless the gauges are trusted."""
        if self.verdict is not Trust.TRUSTED:
            return 0
        own_seats = max(1, round(self._slots * _OWN_SEATS_SHARE))
        return max(0, min(round(self._drift), self._slots - own_seats))

    def scraped(self, gauges: EngineGauges | None, own: OwnAccount) -> None:
        """Take in a scrape; None where the page did not come or could not be read."""
        held = None if gauges is None else gauges.held
        self._is_missing = held is None
        if gauges is None or held is None:
            self._drift = 0.0
            return
        self._note_frozen(gauges, own)
        self._note_lie(gauges, held, own)
        if self.verdict is Trust.TRUSTED:
            self._drift += _DRIFT_SHARE * (min(held, self._slots) - own.in_flight - self._drift)
        else:
            self._drift = 0.0

    def _note_frozen(self, gauges: EngineGauges, own: OwnAccount) -> None:
        has_moved = own.events != self._last_events
        if gauges != self._last:
            self._frozen = 0
        elif has_moved:
            self._frozen += 1
        self._last, self._last_events = gauges, own.events

    def _note_lie(self, gauges: EngineGauges, held: int, own: OwnAccount) -> None:
        """Streams that just gave tokens and are not inside the engine prove a page wrong; so does an absurd figure."""
        is_absurd = held < 0 or (gauges.running or 0) < 0 or not 0.0 <= (gauges.kv_usage or 0.0) <= 1.0
        is_contradicted = held < own.streaming
        if is_absurd or is_contradicted:
            self._lies += 1
            if self._lies >= _STRIKES_MAX:
                self._suspended = _SUSPENDED_SCRAPES
        else:
            self._lies = 0
            self._suspended = max(0, self._suspended - 1)


class KvLimit:
    """The share of an engine's KV that grants may reserve: lowered where preemptions rise, slowly raised again."""

    def __init__(self) -> None:
        self._limit = _KV_LIMIT
        self._preemptions: float | None = None
        self._at_us: int | None = None

    @property
    def share(self) -> float:
        """The limit now."""
        return self._limit

    def scraped(self, now_us: int, preemptions: float | None) -> None:
        """Take in the counter of preemptions; a counter that fell is an engine that started anew."""
        if self._at_us is not None:
            minutes = (now_us - self._at_us) / _MINUTE_US
            self._limit = min(_KV_LIMIT, self._limit + _KV_RECOVERY_A_MINUTE * minutes)
        self._at_us = now_us
        if preemptions is not None and self._preemptions is not None and preemptions > self._preemptions:
            self._limit = max(KV_LIMIT_FLOOR, self._limit * _KV_BACKOFF)
        if preemptions is not None:
            self._preemptions = preemptions
