"""Flags: is it on for this workspace. Kill, expiry, prerequisite, target list, rollout, default, in this order.

Pure: time comes in, rows come in.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

BASIS_POINTS: Final = 10_000
BETA: Final = "beta"
PREREQUISITES_DEEP_MAX: Final = 8
_ON: Final = frozenset({"target", "on", "rollout"})


class FlagSpec(msgspec.Struct, kw_only=True):
    """The rule of a flag. `variants` maps a name to a value; a boolean flag has `on` and `off`.

    A beta is open to its `targets` from `from_us` on, and is asked for by what `match_kind` names: `header`,
    `parameter` or `endpoint`.
    """

    salt: str
    default: str = "off"
    when_on: str = "on"
    is_on: bool = False
    is_killed: bool = False
    rollout_bp: int = 0
    targets: list[str] = []
    prerequisite: str | None = None
    match_kind: str | None = None
    match_value: str = ""
    from_us: int | None = None
    variants: dict[str, Any] = msgspec.field(default_factory=lambda: {"on": True, "off": False})


class Flag(msgspec.Struct, kw_only=True):
    """One flag of one organization."""

    organization_id: UUID
    id: UUID
    name: str
    kind: str
    spec: FlagSpec
    owner: str
    reason: str
    until_us: int | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The value for a unit, which variant it is, and which rule decided."""

    value: Any
    variant: str
    rule: str


def evaluate(
    flags: Mapping[str, Flag], name: str, organization_id: UUID, workspace_id: UUID, now_us: int, depth: int = 0
) -> Evaluation | None:
    """Return what a flag is for a workspace, None when there is no such flag."""
    flag = flags.get(name)
    if flag is None:
        return None
    rule = _stopped(flags, flag, (organization_id, workspace_id), now_us, depth)
    if rule is None:
        rule = _reached(flag, str(organization_id), str(workspace_id))
    return _as(flag.spec, flag.spec.when_on if rule in _ON else flag.spec.default, rule)


def _stopped(flags: Mapping[str, Flag], flag: Flag, who: tuple[UUID, UUID], now_us: int, depth: int) -> str | None:
    """Return the rule that keeps a flag at its default whoever asks, if one does."""
    spec = flag.spec
    if spec.is_killed:
        return "kill"
    if flag.until_us is not None and now_us >= flag.until_us:
        return "expired"
    if spec.prerequisite is not None and not _holds(flags, spec.prerequisite, who, now_us, depth):
        return "prerequisite"
    return None


def _reached(flag: Flag, organization: str, workspace: str) -> str:
    """Return the rule by which a flag that nothing stops reaches a workspace, or `default`."""
    spec = flag.spec
    if organization in spec.targets or workspace in spec.targets:
        return "target"
    if spec.is_on:
        return "on"
    return "rollout" if bucket(spec.salt, flag.name, workspace) < spec.rollout_bp else "default"


def bucket(salt: str, name: str, unit: str) -> int:
    """Return the place of a unit in 10,000; raising a rollout keeps every unit that was in."""
    digest = hashlib.sha256(f"{salt}|{name}|{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BASIS_POINTS


def _holds(flags: Mapping[str, Flag], name: str, who: tuple[UUID, UUID], now_us: int, depth: int) -> bool:
    if depth >= PREREQUISITES_DEEP_MAX:
        return False
    found = evaluate(flags, name, *who, now_us, depth + 1)
    return found is not None and found.variant == flags[name].spec.when_on


def _as(spec: FlagSpec, variant: str, rule: str) -> Evaluation:
    return Evaluation(spec.variants.get(variant), variant, rule)
