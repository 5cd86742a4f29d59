"""Where a request goes: a grant of a pool's scheduler, or the address of a provider.

Sends nothing; `relay.py` does.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import GrantRequest, Refused, ServiceClass
from interlock.foundation.errors import ERRORS, InterlockError
from interlock.foundation.ids import KeyId, OrganizationId, WorkspaceId
from interlock.foundation.wire import Headers, Timeouts
from interlock.gateway.adapters import upstream_http
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.arms import SHADOW
from interlock.gateway.domain.directory import NO_TIMEOUTS, Deployment, Provider, ProviderKind
from interlock.gateway.domain.envelope import Dialect
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.prefix import prefix_chain
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.grants import GrantBook
from interlock.gateway.service.passage import Passage

# Opens a provider's secret; raises `InterlockError` when it cannot.
SecretOpener = Callable[[UUID, str], Awaitable[str]]
HeaderTuple = tuple[tuple[bytes, bytes], ...]
_ANTHROPIC_VERSION: Final = (b"anthropic-version", b"2023-06-01")
_PLACES_MAX: Final = 10_000
_CLASSES: Final = (ServiceClass.BATCH, ServiceClass.STANDARD, ServiceClass.INTERACTIVE)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where to send a request, as which model, with all headers; one that may not be private is public.

    `url` is the base of the upstream's endpoints, `dialect` what it speaks. One that is our own hears of the trace that
    a call belongs to.
    """

    url: str
    model: str
    headers: tuple[tuple[bytes, bytes], ...]
    may_be_private: bool = True
    dialect: Dialect = Dialect.CHAT
    is_own: bool = False


class Placer:
    """Turns the placement of a passage into a place."""

    def __init__(
        self, grants: GrantBook, config: EdgeConfig, internal_token: str, open_secret: SecretOpener | None = None
    ) -> None:
        self._grants = grants
        self._config = config
        self._engine_headers: HeaderTuple = ((b"authorization", b"Bearer " + internal_token.encode()),)
        self._open_secret = open_secret
        self._secrets: dict[tuple[UUID, str], str] = {}
        # Places of providers with what they were made of: another directory has other objects.
        self._places: dict[tuple[int, str], tuple[Deployment, Provider, Place]] = {}

    def forget(self) -> None:
        """Open secrets anew; a provider may have another one now."""
        # New ones, as what is opened right now is still on its way into the old ones.
        self._secrets, self._places = {}, {}

    def at_once(self, passage: Passage) -> Place | None:
        """Return the place of a provider that was asked before; None where one has to be found, maybe waited for."""
        placement = passage.placement
        known = None if placement is None else self._places.get(placement.place)
        if known is None or placement is None or known[0] is not placement.deployment:
            return None
        if known[1] is not placement.provider:
            return None
        passage.is_bypassed = False
        return known[2]

    async def place(self, passage: Passage, ask: Ask) -> Place | Refusal:
        """Return a place, waiting for a grant where the route leads to a pool."""
        placement = passage.placement
        if placement is None:
            return Refusal("model_not_found", "model.alias", step="route")
        passage.is_bypassed = False
        provider, places = placement.provider, self._places
        if provider.kind is ProviderKind.POOL:
            return await self._granted(passage, ask)
        # The server of our own models is asked like an engine of ours: with the token of calls between roles.
        headers = self._engine_headers if provider.kind is ProviderKind.OFFLINE else ()
        is_anthropic = provider.kind is ProviderKind.ANTHROPIC
        if provider.secret is not None:
            secret = await self._secret(provider)
            if isinstance(secret, Refusal):
                return secret
            key = secret.encode()
            headers = ((b"x-api-key", key),) if is_anthropic else ((b"authorization", b"Bearer " + key),)
        url, model = provider.base_url or "", placement.deployment.upstream_model
        if is_anthropic:
            headers = (*headers, _ANTHROPIC_VERSION)
        spoken = Dialect.MESSAGES if is_anthropic else Dialect.CHAT
        headers = upstream_http.HEADERS + headers
        place = Place(url, model, headers, provider.may_be_private, spoken, provider.is_own)
        if len(places) >= _PLACES_MAX:
            places.clear()
        places[placement.place] = (placement.deployment, provider, place)
        return place

    def read_deadline(self, passage: Passage, headers: Headers) -> None:
        """Note the caller's deadline; it holds at once, within what every request may take."""
        passage.asked_s = asked_s(headers)
        self.set_deadline(passage)

    def set_deadline(self, passage: Passage) -> None:
        """Set the time that the whole request may take: the caller's deadline, within the route's."""
        route_ms = passage.placement.route.spec.timeouts_ms.total if passage.placement else None
        total_s = route_ms / 1_000 if route_ms else self._config.total_s
        asked = passage.asked_s
        passage.total_s = total_s if asked is None else min(total_s, asked)

    def timeouts(self, passage: Passage) -> Timeouts:
        """Return the bounds of a call that is made now."""
        given = passage.placement.route.spec.timeouts_ms if passage.placement is not None else NO_TIMEOUTS
        config = self._config
        if given == NO_TIMEOUTS:
            first_byte_s = config.ttft_s if passage.is_stream else config.whole_s
            return Timeouts(config.connect_s, first_byte_s, config.idle_s, max(0.001, passage.left_s()))
        # The head of an answer that is not streamed comes with its last token, not with its first.
        first_byte_s = _seconds(given.ttft, config.ttft_s) if passage.is_stream else config.whole_s
        return Timeouts(
            _seconds(given.connect, config.connect_s),
            first_byte_s,
            _seconds(given.idle, config.idle_s),
            max(0.001, passage.left_s()),
        )

    async def _granted(self, passage: Passage, ask: Ask) -> Place | Refusal:
        request = self._grant_request(passage, ask)
        asked = passage.exchange.request.headers.get(b"x-interlock-class")
        passage.decide("queue", f"pool.{request.pool}", "waiting", class_words(asked, request.service_class))
        before = passage.elapsed_ms()
        with passage.waiting():
            answer = await self._grants.acquire(passage, request)
        passage.queue_ms = (passage.queue_ms or 0.0) + passage.elapsed_ms() - before
        for line in answer.decision:
            passage.decide("grant", str(line.get("step", "scheduler")), _verdict(line), _words(line))
        if isinstance(answer, Refused):
            return refused_grant(answer, request.pool)
        passage.is_bypassed = answer.promise == "none"
        passage.decide(
            "grant",
            f"pool.{request.pool}",
            "granted",
            f"{answer.grant_id} on {answer.engine_id} after {answer.queue_wait_ms} ms, {answer.promise}",
        )
        # A socket is one of our own engines; another server must never see the internal token.
        is_own = answer.engine_url.startswith("unix:")
        url = f"{answer.engine_url}:/v1" if is_own else with_version(answer.engine_url)
        headers = (*upstream_http.HEADERS, (b"x-interlock-grant", answer.grant_id.encode()))
        return Place(url, answer.engine_model, headers + (self._engine_headers if is_own else ()), is_own=True)

    def _grant_request(self, passage: Passage, ask: Ask) -> GrantRequest:
        placement, principal = passage.placement, passage.principal
        if placement is None or principal is None or principal.workspace_id is None:
            raise InterlockError("internal_error")
        headers = passage.exchange.request.headers
        return GrantRequest(
            request_id=passage.exchange.request_id,
            pool=placement.provider.pool or "",
            organization_id=OrganizationId(principal.organization_id),
            workspace_id=WorkspaceId(principal.workspace_id),
            key_id=KeyId(principal.key_id) if principal.key_id is not None else None,
            service_class=service_class(headers.get(b"x-interlock-class"), passage.class_max),
            input_tokens=max(1, ask.input_tokens),
            max_tokens=max(1, ask.output_tokens),
            deadline_ms=max(1, round(passage.total_s * 1_000 - passage.elapsed_ms())),
            prefix=_prefix(passage, principal.organization_id),
            model=placement.deployment.upstream_model,
            route=placement.route.alias,
            is_copy=passage.arm == SHADOW,
        )

    async def _secret(self, provider: Provider) -> str | Refusal:
        place, secrets = (provider.organization_id, provider.secret or ""), self._secrets
        if place not in secrets:
            if self._open_secret is None:
                return Refusal("upstream_auth_failed", "provider.secret", step="route", note="no secrets here")
            try:
                secrets[place] = await self._open_secret(*place)
            except InterlockError as error:
                return Refusal("upstream_auth_failed", "provider.secret", step="route", note=error.code)
        return secrets[place]


def asked_s(headers: Headers) -> float | None:
    """Return the seconds within which a caller wants its answer, by its own word or its library's."""
    given = headers.first
    asked = _positive(given.get(b"x-interlock-deadline-ms"))
    if asked is not None:
        return asked / 1_000
    return _positive(given.get(b"x-stainless-read-timeout") or given.get(b"x-stainless-timeout"))


def refused_grant(refused: Refused, pool: str) -> Refusal:
    """Return a scheduler's refusal as the edge's: status, code and numbers are passed on."""
    rule = refused.detail.get("rule")
    code = refused.code if refused.code in ERRORS else "overloaded"
    return Refusal(
        code,
        str(rule) if rule else f"pool.{pool}.{refused.code}",
        message=refused.message or None,
        status=refused.http_status,
        retry_after_s=refused.retry_after_s,
        detail={name: value for name, value in refused.detail.items() if name != "rule"},
        step="grant",
    )


def service_class(asked: bytes | None, class_max: str | None) -> ServiceClass:
    """Return the class that the caller asked for, which the door has read, at most the best that the key may have."""
    wanted = ServiceClass.INTERACTIVE if asked is None else ServiceClass(asked.decode("latin-1").strip().lower())
    best = ServiceClass(class_max) if class_max is not None else ServiceClass.INTERACTIVE
    return min(wanted, best, key=_CLASSES.index)


def class_words(asked: bytes | None, given: ServiceClass) -> str:
    """Return the class as the story tells it, and what it was before the key's bound."""
    wanted = service_class(asked, None)
    return f"class {given}" if wanted is given else f"class {given}, lowered from {wanted} by the key's class_max"


def with_version(base_url: str) -> str:
    """Return an OpenAI-compatible base URL, which ends in a path such as `/v1`."""
    bare = base_url.rstrip("/")
    return bare if bare.partition("://")[2].partition("/")[2] else f"{bare}/v1"


def _prefix(passage: Passage, organization_id: UUID) -> tuple[str, ...]:
    messages = passage.envelope.top.get("messages") if passage.envelope is not None else None
    return () if messages is None else prefix_chain(organization_id, bytes(messages))


def _verdict(line: Mapping[str, object]) -> str:
    return str(line["step"]) if line.get("step") in {"refused", "displaced"} else "ok"


def _words(line: Mapping[str, object]) -> str:
    """Return a line of the scheduler as a detail; yes and no are written as in JSON."""
    named = {name: str(value).lower() if isinstance(value, bool) else value for name, value in line.items()}
    return " ".join(f"{name}={value}" for name, value in named.items() if name != "step")


def _seconds(milliseconds: int | None, default_s: float) -> float:
    return default_s if milliseconds is None else milliseconds / 1_000


def _positive(text: bytes | None) -> float | None:
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None
