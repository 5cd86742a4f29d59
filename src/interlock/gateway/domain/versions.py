"""What a version of a route is as an artifact: its canonical JSON and the digest that a verdict is about.

Looks nothing up; the deployments that a version names are given.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.gateway.domain.directory import Deployment, RouteSpec

_encode: Final = msgspec.json.Encoder(order="sorted").encode
# Fields that came later: where they say nothing they are left out, so that older versions keep their digest.
_LATER: Final = ("strategy", "fallbacks", "degrade_to", "attempts_max")


def canonical_spec(spec: RouteSpec) -> str:
    """Return a version as it is kept."""
    return _encode(_said(spec)).decode()


def digest_of(spec: RouteSpec, deployments: Sequence[Deployment]) -> str:
    """Return `sha256:` over the canonical JSON of a version, its deployments and their prices.

    Where a model server lives is no part of it: the same model behind another address is the same artifact.
    """
    content: dict[str, Any] = {
        "spec": _said(spec),
        "deployments": [
            {
                "name": each.name,
                "provider": each.provider,
                "upstream_model": each.upstream_model,
                "input_price_micro": each.input_price_micro,
                "output_price_micro": each.output_price_micro,
                **_cached_price(each),
            }
            for each in deployments
        ],
    }
    return f"sha256:{hashlib.sha256(_encode(content)).hexdigest()}"


def _cached_price(deployment: Deployment) -> dict[str, int]:
    price_micro = deployment.cached_input_price_micro
    return {} if price_micro is None else {"cached_input_price_micro": price_micro}


def _said(spec: RouteSpec) -> dict[str, Any]:
    silent = RouteSpec(targets=())
    unsaid = {name for name in _LATER if getattr(spec, name) == getattr(silent, name)}
    return {name: value for name, value in msgspec.to_builtins(spec).items() if name not in unsaid}
