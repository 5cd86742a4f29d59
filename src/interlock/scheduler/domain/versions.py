"""The settings of a pool that make a version, how they are written, and what differs between two of them.

Keeps no history; the store does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.replay import POLICIES
from interlock.scheduler.domain.types import ClassObjective

Objectives = dict[ServiceClass, ClassObjective]
_MS_MAX: Final = 3_600_000
# Less makes everybody over its share, which is to have no shares.
SHARE_LEVEL_MIN: Final = 0.01


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Name and parameters of a pool's policy."""

    policy: str
    share_level: float
    objectives: Objectives


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that are tried: beside the live ones, or for a share of the workspaces in basis points.

    `number` counts the tries of a pool; each share that a candidate is given is a try of its own.
    """

    number: int
    settings: PoolSettings
    share_bp: int | None = None

    @property
    def stage(self) -> str:
        """How it is tried."""
        return "shadow" if self.share_bp is None else "canary"

    @property
    def salt(self) -> str:
        """What chooses the workspaces: the same for each share of the same settings, so a larger one only adds some."""
        return " ".join(f"{name}={value}" for name, value in flat(self.settings).items())

    def is_share_of(self, before: "Candidate") -> bool:
        """Whether this is what was tried before, for another share of the workspaces."""
        return self.share_bp is not None and (self.number, self.settings) == (before.number + 1, before.settings)


def with_setting(settings: PoolSettings, key: str, text: str) -> PoolSettings | None:
    """Return the settings with one changed as an operator writes it; None where it is no setting or no value of it."""
    scope, _, name = key.partition(".")
    if not text.isascii():
        return None
    try:
        if key == "policy" and text in POLICIES:
            return replace(settings, policy=text)
        if key == "share_level" and SHARE_LEVEL_MIN <= float(text) <= 1:
            return replace(settings, share_level=float(text))
        if scope in set(ServiceClass) and name in {"ttft_ms", "tpot_ms"}:
            value = None if (name, text) == ("tpot_ms", "none") else int(text)
            if value is None or 0 < value <= _MS_MAX:
                return replace(settings, objectives=_with_objective(settings, ServiceClass(scope), name, value))
    except ValueError:
        pass
    return None


def settable() -> str:
    """Say what can be set, and to what."""
    return (
        f"Set policy ({', '.join(POLICIES)}), share_level ({SHARE_LEVEL_MIN:g} to 1), draining (true, false), "
        f"CLASS.ttft_ms (1 to {_MS_MAX}) or CLASS.tpot_ms (the same, or none); "
        f"CLASS is one of {', '.join(ServiceClass)}."
    )


def _with_objective(settings: PoolSettings, scope: ServiceClass, name: str, value: int | None) -> Objectives:
    before = settings.objectives[scope]
    after = (
        ClassObjective(value, before.tpot_ms) if name == "ttft_ms" and value else ClassObjective(before.ttft_ms, value)
    )
    return {**settings.objectives, scope: after}


def changed(before: PoolSettings, after: PoolSettings) -> dict[str, list[Any]]:
    """Return what differs, by the names that operators set: [before, after]."""
    old, new = flat(before), flat(after)
    return {name: [old[name], new[name]] for name in new if old[name] != new[name]}


def flat(settings: PoolSettings) -> Mapping[str, Any]:
    """Return the settings by the names that operators set."""
    found: dict[str, Any] = {"policy": settings.policy, "share_level": settings.share_level}
    for service_class, objective in settings.objectives.items():
        found[f"{service_class.value}.ttft_ms"] = objective.ttft_ms
        found[f"{service_class.value}.tpot_ms"] = objective.tpot_ms
    return found


def artifact_digest(pool: str, settings: PoolSettings) -> str:
    """Return what a verdict about these settings of a pool is about: `sha256:` over canonical JSON, numbers as text."""
    told = {name: str(value) for name, value in flat(settings).items()}
    content = msgspec.json.encode({"pool": pool, "settings": told}, order="sorted")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
