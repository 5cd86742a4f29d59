"""Betas: who may use what is not for everybody yet, and from when to when.

Knows no kill switch; whoever asks looks at those, too.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.gateway.domain.refusals import Refusal

HEADERS: Final = (b"x-interlock-beta", b"openai-beta", b"anthropic-beta")
_HEADER_NAMES: Final = frozenset(name.decode() for name in HEADERS)
_NAME_CHARS_MAX: Final = 128


class Beta(msgspec.Struct, frozen=True):
    """One beta. `kind` is `header`, `parameter` or `endpoint`, `value` what a request shows there."""

    organization_id: UUID
    name: str
    kind: str
    value: str
    allow: tuple[UUID, ...] = ()
    from_us: int | None = None
    until_us: int | None = None

    @property
    def asked_as(self) -> str:
        """What asks for it: a header's own name stands for the beta's."""
        return self.name if self.kind == "header" and self.value in _HEADER_NAMES else self.value


class BetaBook:
    """All betas. One of the platform's stands before one of an organization's own, which cannot open it."""

    def __init__(self, betas: Iterable[Beta] = ()) -> None:
        self._betas = {(each.organization_id, each.kind, each.asked_as): each for each in betas}
        self.is_empty = not self._betas
        self._parameters = frozenset(each.value for each in self._betas.values() if each.kind == "parameter")

    def find(self, organization_id: UUID, kind: str, asked: str) -> Beta | None:
        """Return the beta that governs what is asked for."""
        return self._betas.get((SYSTEM_ORGANIZATION_ID, kind, asked)) or self._betas.get((organization_id, kind, asked))

    def reads_bodies_of(self, organization_id: UUID) -> bool:
        """Tell whether a parameter of a body may be a beta for an organization."""
        owners = (SYSTEM_ORGANIZATION_ID, organization_id)
        return any((owner, "parameter", name) in self._betas for name in self._parameters for owner in owners)

    def parameters(self, given: Iterable[str]) -> list[str]:
        """Return those of a body's parameters that may be betas."""
        return sorted(self._parameters.intersection(given)) if self._parameters else []


def refused(beta: Beta, organization_id: UUID, workspace_id: UUID | None, now_us: int) -> Refusal | None:
    """Return why a tenant may not use a beta now."""
    rule = f"beta.{beta.name}"
    detail = {"beta": beta.name}
    if beta.until_us is not None and now_us >= beta.until_us:
        return Refusal("beta_expired", rule, detail=detail, step="beta")
    is_early = beta.from_us is not None and now_us < beta.from_us
    if is_early or not {organization_id, workspace_id}.intersection(beta.allow):
        return Refusal("beta_not_enabled", rule, detail=detail, step="beta")
    return None


def unknown(name: str) -> Refusal:
    """Return the refusal of a name that is no beta's."""
    shown = name[:_NAME_CHARS_MAX]
    return Refusal("beta_unknown", "beta.unknown", detail={"beta": shown}, step="beta", note=shown)
