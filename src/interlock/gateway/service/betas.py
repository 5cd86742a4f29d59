"""What a request asks for beyond what everybody has: a version of the API, and betas by header, parameter, endpoint.

Changes no request; it lets one on or says why not.
"""

from typing import Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import created_ms
from interlock.gateway.domain.api_versions import version_at
from interlock.gateway.domain.betas import HEADERS, Beta, BetaBook, refused, unknown
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.usage import with_beta
from interlock.gateway.service.passage import Passage

_VERSION: Final = b"interlock-version"
_NULL: Final = b"null"


class BetaGate:
    """The steps `version` and `beta`."""

    def __init__(self, switches: KillSwitches, clock: Clock) -> None:
        self._switches = switches
        self._clock = clock

    def check_head(self, passage: Passage, book: BetaBook) -> Refusal | None:
        """Decide by the head: the version, the betas that it names, and the endpoint."""
        headers = passage.exchange.request.headers
        asked = headers.get(_VERSION)
        if asked is not None:
            pinned_us = created_ms(passage.key_id) * 1_000 if passage.key_id is not None else 0
            version = version_at(asked, pinned_us, self._clock.now_us())
            if isinstance(version, Refusal):
                return version
            passage.decide("version", "header.interlock-version", "ok", str(version))
        for header in HEADERS:
            refusal = self._check_header(passage, book, header) if header in headers else None
            if refusal is not None:
                return refusal
        return None if book.is_empty else self._check_known(passage, book, "endpoint", passage.endpoint)

    def _check_header(self, passage: Passage, book: BetaBook, header: bytes) -> Refusal | None:
        for name in _names(passage.exchange.request.headers.getall(header)):
            beta = book.find(passage.tenant, "header", name)
            refusal = unknown(name) if beta is None else self._judge(passage, beta)
            if refusal is not None:
                return refusal
            # That vendor's own upstream has to hear of it.
            passage.betas.append((header, name.encode("latin-1")))
        return None

    def check_parameters(self, passage: Passage, book: BetaBook, top: dict[str, msgspec.Raw]) -> Refusal | None:
        """Decide by the body: parameters that are betas."""
        for name in book.parameters(top):
            if bytes(top[name]) != _NULL:
                refusal = self._check_known(passage, book, "parameter", name)
                if refusal is not None:
                    return refusal
        return None

    def _check_known(self, passage: Passage, book: BetaBook, kind: str, asked: str) -> Refusal | None:
        beta = book.find(passage.tenant, kind, asked)
        return None if beta is None else self._judge(passage, beta)

    def _judge(self, passage: Passage, beta: Beta) -> Refusal | None:
        kill = self._switches.check([("beta", beta.name)], passage.organization_id) if self._switches.kills else None
        if kill is not None:
            note = f"{kill.id} {kill.mode} by {kill.actor}: {kill.reason}"
            return Refusal(
                "beta_disabled", f"kill.beta.{beta.name}", detail={"beta": beta.name}, step="beta", note=note
            )
        refusal = refused(beta, passage.tenant, passage.workspace_id, self._clock.now_us())
        if refusal is None:
            passage.decide("beta", f"beta.{beta.name}", "ok")
            passage.tags = with_beta(passage.tags, beta.name)
        return refusal


def _names(values: list[bytes]) -> list[str]:
    """Return each name once: their number is bounded by the head's, as the first that is no beta's ends the request."""
    names = [each.strip() for value in values for each in value.decode("latin-1").split(",")]
    return [each for each in dict.fromkeys(names) if each]
