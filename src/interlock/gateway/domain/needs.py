"""What a request needs of a model, and whether a deployment is known not to have it.

Reads the checked envelope only; what is not known of a deployment excludes nothing.
"""

from typing import Final

from interlock.gateway.domain.directory import Deployment
from interlock.gateway.domain.envelope import Dialect, Envelope
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.refusals import Refusal

_NO_TOOLS: Final = (b"[]", b"null")
_SCHEMA: Final = (b"json_schema", b"json_object")


def lacking(deployment: Deployment, envelope: Envelope, ask: Ask) -> Refusal | None:
    """Return why a deployment cannot answer a request, or None."""
    can = deployment.capabilities
    if can.context_tokens is not None and can.context_tokens < ask.input_tokens:
        note = f"context {can.context_tokens} below {ask.input_tokens}"
        return _lacks(deployment, "context_tokens", "context_length_exceeded", note)
    if can.tools is False and _given(envelope, "tools") not in (None, *_NO_TOOLS):
        return _lacks(deployment, "tools", "unsupported_parameter", "no tools", "tools")
    if can.vision is False and envelope.images:
        return _lacks(deployment, "vision", "unsupported_parameter", "no images", "messages")
    if can.json_schema is False and any(each in (_given(envelope, "response_format") or b"") for each in _SCHEMA):
        return _lacks(deployment, "json_schema", "unsupported_parameter", "no json schema", "response_format")
    if can.embeddings is False and envelope.dialect is Dialect.EMBEDDINGS:
        return _lacks(deployment, "embeddings", "unsupported_parameter", "no embeddings", "model")
    return None


def _given(envelope: Envelope, name: str) -> bytes | None:
    raw = envelope.top.get(name)
    return None if raw is None else bytes(raw)


def _lacks(deployment: Deployment, what: str, code: str, note: str, param: str | None = None) -> Refusal:
    return Refusal(code, f"deployment.{deployment.name}.{what}", step="route", note=note, param=param)
