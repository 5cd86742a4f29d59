"""What a rollout must know of a gate: is there live evidence for this artifact, and a token for the next stage.

Decides nothing; the gate's own service answers it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from interlock.foundation.scope import Scope


@dataclass(frozen=True, slots=True)
class LiveVerdict:
    """A verdict that admits an artifact on a route now. `max_weight` is what its first token says."""

    gate_id: UUID
    verdict_id: UUID
    verdict: str
    expires_at_us: int
    max_weight: float
    tier: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """No live evidence. Each reason has at least `code` and `text`."""

    reasons: tuple[Mapping[str, Any], ...]


class RolloutGate(Protocol):
    """The required gate of a route, as a rollout asks it."""

    async def live(self, scope: Scope, route: str, artifact_digest: str) -> LiveVerdict | Blocked:
        """Return the newest live verdict of the route's required gate that admits the artifact."""
        ...

    async def token(self, scope: Scope, route: str, verdict: LiveVerdict, max_weight: float) -> str | Blocked:
        """Return a signed token of that verdict for up to `max_weight` percent; the caller answers for the stage."""
        ...
