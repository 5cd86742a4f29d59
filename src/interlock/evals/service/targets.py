"""What is evaluated: a recording or a version of a route, named by the digest of its artifact.

Calls nothing; the runner does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.contracts.rollouts import RolloutActuator
from interlock.evals.domain.oracles import Output
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope

RECORDED: Final = "recorded"
ROUTE: Final = "route"
_DIGEST_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Target:
    """One target. `outputs` holds those of a recording, a list an epoch by case key; a route has none."""

    kind: str
    digest: str
    route: str | None = None
    version: int | None = None
    outputs: Mapping[str, list[Output]] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        """Return what the run's row keeps; outputs lie in the samples."""
        return {"kind": self.kind, "artifact_digest": self.digest, "route": self.route, "version": self.version}


async def read_target(actuator: RolloutActuator, scope: Scope, body: Mapping[str, Any] | None) -> Target:
    """Return a target. Raises `invalid_request`, `not_found`, `unsupported_target`."""
    if not body:
        raise InterlockError("invalid_request", "A target is an object with a kind.", detail={"field": "candidate"})
    kind = body.get("kind")
    if kind == RECORDED:
        return _recorded(body)
    if kind == ROUTE:
        return await _route(actuator, scope, body)
    raise InterlockError("unsupported_target", detail={"kind": str(kind)[:40], "kinds": [RECORDED, ROUTE]})


def _recorded(body: Mapping[str, Any]) -> Target:
    digest, given = body.get("artifact_digest"), body.get("outputs")
    if not isinstance(digest, str) or not 1 <= len(digest) <= _DIGEST_CHARS_MAX or not isinstance(given, dict):
        raise InterlockError("invalid_request", "A recording has an artifact_digest and outputs by case key.")
    try:
        outputs = {str(key): [Output.read(each) for each in _listed(texts)] for key, texts in given.items()}
    except ValueError as error:
        raise InterlockError("invalid_request", f"Outputs: {error}.") from error
    return Target(RECORDED, digest, outputs=outputs)


def _listed(texts: Any) -> list[Any]:
    return texts if isinstance(texts, list) else [texts]


async def _route(actuator: RolloutActuator, scope: Scope, body: Mapping[str, Any]) -> Target:
    route, version = body.get("route"), body.get("version")
    is_number = version is None or (isinstance(version, int) and not isinstance(version, bool))
    if not isinstance(route, str) or not is_number:
        raise InterlockError("invalid_request", "A route target names a route, and a version by its number.")
    found = await actuator.resolve(scope, route, version)
    if found is None:
        raise InterlockError("not_found", "There is no such version of a route.", detail={"route": route[:128]})
    return Target(ROUTE, found.digest, found.route, found.version)
