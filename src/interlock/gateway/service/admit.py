"""Who asks, and for which model: everything that is decided before a request may consume anything.

Reads no body of a stranger and reserves nothing; `reserve.py` does that next.
"""

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from interlock.contracts.scheduling import ServiceClass
from interlock.foundation.clock import Clock
from interlock.foundation.flags import Kill, KillSwitches
from interlock.foundation.identity import TASK, Authenticated, Authenticator, KeyRecord, Refused
from interlock.foundation.telemetry import PARENT_SPAN, Link
from interlock.foundation.telemetry.traces import parse_traceparent
from interlock.foundation.wire import Headers, Request
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.directory import Directory, LimitSet, Placement, ProviderKind
from interlock.gateway.domain.envelope import Dialect, Envelope, decode_envelope
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.usage import parse_tags
from interlock.gateway.service.arms import Arms
from interlock.gateway.service.betas import BetaGate
from interlock.gateway.service.heads import Heads
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import service_class

# What these headers may say, whichever the case; a word that is passed over would be believed to be heeded.
_CHOICES: Final = {
    b"x-interlock-class": tuple(str(each) for each in ServiceClass),
    b"x-interlock-degrade": ("allow", "never"),
}
_DEADLINE: Final = b"x-interlock-deadline-ms"
_CLIENT_ID: Final = re.compile(rb"[ -~]{1,128}")
TargetsOf = Callable[[Passage], list[tuple[str, str]]]
# Modes that end what runs, and those that also end what waits or would be tried again.
ABORT: Final = frozenset({"abort"})
DRAIN: Final = frozenset({"abort", "drain"})
ANY_MODE: Final = frozenset({"abort", "drain", "reject"})
INFERENCE: Final = "inference"
_TASK_HEADER: Final = b"x-interlock-task"


class FailureMeter:
    """Failed authentications of an address, as a bucket that a minute refills; the oldest address is forgotten."""

    def __init__(self, per_minute: int, addresses_max: int) -> None:
        self._per_minute = per_minute
        self._addresses_max = addresses_max
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def fail(self, address: str, now: float) -> float | None:
        """Count a failure; return None while the address is below its bound, else the seconds until it is again."""
        level, at = self._levels.pop(address, (float(self._per_minute), now))
        level = min(float(self._per_minute), level + (now - at) * self._per_minute / 60)
        is_over = level < 1
        self._levels[address] = (level if is_over else level - 1, now)
        while len(self._levels) > self._addresses_max:
            self._levels.popitem(last=False)
        return (1 - level) * 60 / self._per_minute if is_over else None


class Admission:
    """The rules of a request's head and of its envelope, in their order."""

    def __init__(
        self,
        authenticator: Authenticator,
        switches: KillSwitches,
        arms: Arms,
        config: EdgeConfig,
        clock: Clock,
    ) -> None:
        self._authenticator = authenticator
        self._arms = arms
        self._switches = switches
        self._betas = BetaGate(switches, clock)
        self._clock = clock
        self._failures = FailureMeter(config.failed_keys_per_minute, config.failed_addresses_max)
        self._heads = Heads(authenticator, switches, clock, config.heads_max)
        self._trusted = tuple(ipaddress.ip_network(each) for each in config.trusted_proxies)
        self.directory = Directory()

    def address_of(self, request: Request) -> str | None:
        """Return the client's address: the peer, or what a trusted proxy says of it."""
        peer = request.peer
        if not self._trusted or peer is None or not self.is_proxy(peer):
            return peer
        hops = b",".join(request.headers.getall(b"x-forwarded-for")).decode("latin-1").split(",")
        for hop in reversed([each.strip() for each in hops if each.strip()]):
            if not _is_address(hop):
                return peer
            if not self.is_proxy(hop):
                return hop
        return peer

    def recall(self, passage: Passage) -> bool:
        """Let in at once whoever was let in by an equal head before, while nothing has changed."""
        return self._heads.recall(passage, self.directory)

    def name(self, passage: Passage) -> bool:
        """Say whose a request is that is not let in any more, where an equal head was let in before."""
        return self._heads.name(passage, self.directory)

    def follow(self, directory: Directory) -> None:
        """Decide by another directory from here on."""
        self.directory = directory
        self._heads.forget()

    def found(self, request: Request) -> Authenticated | None:
        """Return the key of a head that would be let in at once."""
        return self._heads.found(request, self.directory)

    def limits_of(self, passage: Passage) -> LimitSet | None:
        """Return the limits of whoever asks, for the alias that answers; None where nobody is named who has any."""
        principal, placement = passage.principal, passage.placement
        if principal is None or placement is None or principal.key_id is None or principal.workspace_id is None:
            return None
        return self.directory.limits_for(
            principal.organization_id, principal.workspace_id, principal.key_id, placement.route.alias
        )

    async def identify(self, passage: Passage, scope: str = INFERENCE) -> Refusal | None:
        """Decide by the head alone: form, kill(gateway), key with `scope`, kill(organization, workspace, key)."""
        request = passage.exchange.request
        refusal = self._read_head(passage, request.headers) or self._killed(passage, _gateway_targets)
        if refusal is not None:
            return refusal
        presented = presented_key(request.headers)
        if isinstance(presented, Refusal):
            return presented
        address = self.address_of(request)
        found = self._authenticator.check(presented, address, self._clock.now_us())
        if isinstance(found, Refused) and found.is_miss:
            passage.open()
            found = await self._authenticator.check_store(presented, address)
        if isinstance(found, Refused):
            return self._stranger(found, address)
        refusal = self._known(passage, found, scope)
        passage.auth_ms = passage.elapsed_ms()
        if refusal is None and scope == INFERENCE:
            self._heads.remember(passage, found, self.directory)
        return refusal

    def outlived(self, passage: Passage) -> Refusal | None:
        """Return why the key of a request that was long in bringing its body lets it in no more."""
        request = passage.exchange.request
        presented = presented_key(request.headers)
        if isinstance(presented, Refusal):
            return presented
        found = self._authenticator.check(presented, self.address_of(request), self._clock.now_us())
        if not isinstance(found, Refused) or found.is_miss:
            return None
        return Refusal(found.code, f"key.{found.code}", step="authenticated")

    def read_envelope(self, passage: Passage, body: bytes, dialect: Dialect = Dialect.CHAT) -> Envelope | Refusal:
        """Decide by the body: form, alias, allow-list, kill(route, deployment, provider)."""
        envelope = decode_envelope(body, dialect)
        if isinstance(envelope, Refusal):
            return envelope
        passage.envelope = envelope
        passage.is_stream = envelope.is_stream
        form = "stream true" if envelope.is_stream else "stream false"
        passage.decide("parsed", f"body.{dialect}", "ok", f"{len(body)} bytes, {form}")
        organization_id = passage.tenant
        allowed = passage.key_models
        alias = self.directory.alias(organization_id, envelope.model)
        if alias is None:
            near = self.directory.near(organization_id, allowed, envelope.model)
            return Refusal(
                "model_not_found",
                "model.alias",
                message=f"No model is named {envelope.model[:128]!r}." + (f" Near: {', '.join(near)}." if near else ""),
                param="model",
                detail={"model": envelope.model[:128], "near": near},
                step="model",
            )
        passage.alias = name = alias.stable.route.alias
        if "*" not in allowed and name not in allowed:
            return Refusal("model_not_allowed", "key.models", param="model", detail={"model": name}, step="model")
        passage.placement = alias.stable
        placement = self._arms.choose(passage, alias, envelope)
        if isinstance(placement, Refusal):
            return placement
        passage.placement = placement
        passage.decide("model", placement.rule, "found", placement.label)
        refusal = self._betas.check_parameters(passage, self.directory.betas, envelope.top)
        # Of a deployment or a provider that is stopped, others of the route may answer; that is for later.
        return refusal or self._killed(passage, _alias_targets) or envelope

    def lesser(self, passage: Passage, name: str) -> Placement | Refusal:
        """Return where the alias leads that a request is degraded to, if its key may use it and nothing stops it."""
        alias = self.directory.alias(passage.tenant, name)
        if alias is None:
            return Refusal("model_not_found", "model.alias", step="degrade")
        if "*" not in passage.key_models and name not in passage.key_models:
            return Refusal("model_not_allowed", "key.models", step="degrade")
        kill = self._switches.check([("route", name)], passage.organization_id)
        return alias.stable if kill is None else killed(kill, passage)

    def stopped(self, passage: Passage, modes: frozenset[str]) -> Refusal | None:
        """Return why a request that was let in has to end after all: a switch of one of these modes came on."""
        if not self._switches.kills:
            return None
        targets = [("gateway", "*"), *_tenant_targets(passage), *_route_targets(passage)]
        kill = self._switches.check(targets, passage.organization_id)
        return killed(kill, passage) if kill is not None and kill.mode in modes else None

    def _read_head(self, passage: Passage, headers: Headers) -> Refusal | None:
        caller = parse_traceparent(headers.get(b"traceparent"))
        if caller is not None:
            passage.trace_id = caller.trace_id
            passage.links.append(Link(PARENT_SPAN, caller.span_id))
        tags = headers.get(b"x-interlock-tags")
        if tags is not None and (refusal := _note_tags(passage, tags)) is not None:
            return refusal
        client_id = headers.get(b"x-client-request-id")
        if client_id is None:
            return _choice(headers) or _deadline(headers)
        if not _CLIENT_ID.fullmatch(client_id):
            return Refusal(
                "invalid_request",
                "header.x-client-request-id",
                message="`x-client-request-id` must be 1 to 128 printable ASCII characters.",
                param="x-client-request-id",
                step="received",
            )
        passage.name(client_id)
        return _choice(headers) or _deadline(headers)

    def _known(self, passage: Passage, found: Authenticated, scope: str) -> Refusal | None:
        principal = found.principal
        passage.identify(principal)
        passage.key_models = frozenset(found.key.models)
        passage.class_max = found.key.class_max
        passage.key_kind = found.key.kind
        passage.decide("authenticated", "key.lookup", "ok", f"{principal.kind} by key ..{found.key.last4}")
        if scope not in principal.scopes:
            return Refusal("scope_denied", f"key.scopes.{scope}", detail={"scope": scope}, step="authenticated")
        refusal = _link(passage, found.key) or self._killed(passage, _tenant_targets)
        return refusal or self._betas.check_head(passage, self.directory.betas)

    def _stranger(self, refused: Refused, address: str | None) -> Refusal:
        rule = f"key.{refused.code}"
        if refused.code == "identity_unavailable":
            return Refusal(refused.code, rule, step="authenticated", retry_after_s=1.0)
        wait_s = self._failures.fail(address, self._clock.monotonic()) if address is not None else None
        if wait_s is None:
            return Refusal(refused.code, rule, step="authenticated")
        return Refusal(
            "requests_limit",
            "address.failed_keys",
            message="Too many failed authentications from this address.",
            retry_after_s=wait_s,
            detail={"scope": "address"},
            step="authenticated",
        )

    def _killed(self, passage: Passage, targets_of: TargetsOf) -> Refusal | None:
        if not self._switches.kills:
            return None
        kill = self._switches.check(targets_of(passage), passage.organization_id)
        return None if kill is None else killed(kill, passage)

    def statistics(self) -> dict[str, int]:
        """Return what is kept of heads."""
        return self._heads.statistics()

    def is_proxy(self, address: str) -> bool:
        """Tell whether an address is that of a trusted proxy, which names the caller itself."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def _choice(headers: Headers) -> Refusal | None:
    """Return the refusal of a header that says none of what it may say."""
    for field, allowed in _CHOICES.items():
        given = headers.get(field)
        if given is not None and given.strip().lower().decode("latin-1") not in allowed:
            name = field.decode()
            words = ", ".join(f"`{each}`" for each in allowed)
            return Refusal(
                "invalid_request",
                f"header.{name}",
                message=f"`{name}` is one of {words}.",
                param=name,
                detail={"allowed": list(allowed)},
                step="received",
            )
    return None


def _deadline(headers: Headers) -> Refusal | None:
    """Return the refusal of a deadline that is none, whose caller would believe that it holds."""
    given = headers.get(_DEADLINE)
    try:
        # Python reads `1_000` as well, which is no number to anybody else.
        is_none = given is not None and (b"_" in given or not 0 < float(given) < float("inf"))
    except ValueError:
        is_none = True
    if not is_none:
        return None
    name = _DEADLINE.decode()
    return Refusal(
        "invalid_request",
        f"header.{name}",
        message=f"`{name}` is a number of milliseconds above 0.",
        param=name,
        step="received",
    )


def _note_tags(passage: Passage, given: bytes) -> Refusal | None:
    parsed = parse_tags(given)
    if parsed is not None:
        passage.tags = parsed
        return None
    return Refusal(
        "invalid_request",
        "header.x-interlock-tags",
        message="`x-interlock-tags` are up to 10 different names with a value each: `team=search,env=prod`.",
        param="x-interlock-tags",
        step="received",
    )


def _link(passage: Passage, key: KeyRecord) -> Refusal | None:
    """Note the work that a lent key belongs to; nobody else may name one, and it names no other."""
    named = passage.exchange.request.headers.get(_TASK_HEADER)
    is_lent = key.kind == TASK
    if named is not None and (not is_lent or named.decode("latin-1") != key.name):
        return Refusal(
            "invalid_request",
            "header.x-interlock-task",
            message="`x-interlock-task` is for the key that was lent to this very work.",
            param="x-interlock-task",
            step="authenticated",
        )
    if is_lent:
        passage.links.append(Link(key.name.partition("_")[0], key.name))
    return None


def killed(kill: Kill, passage: Passage) -> Refusal:
    """Return the refusal that a switch makes."""
    alias = passage.alias
    return Refusal(
        "killed",
        f"kill.{kill.scope}.{kill.target}",
        message=f"A kill switch is on for this {kill.scope}.",
        detail={"scope": str(kill.scope), "model": alias},
        step="killed",
        note=f"{kill.id} {kill.mode} by {kill.actor}: {kill.reason}",
    )


def presented_key(headers: Headers) -> str | Refusal:
    """Return the key that the headers name; an empty text when they name none."""
    keys = {_of_bearer(each) for each in headers.getall(b"authorization")}
    keys.update(each.decode("latin-1") for each in headers.getall(b"x-api-key"))
    if len(keys) > 1:
        return Refusal(
            "invalid_request",
            "header.two_keys",
            message="`Authorization` and `x-api-key` name different keys.",
            step="received",
        )
    return keys.pop() if keys else ""


def _of_bearer(value: bytes) -> str:
    scheme, _, rest = value.partition(b" ")
    return rest.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def _gateway_targets(_: Passage) -> list[tuple[str, str]]:
    return [("gateway", "*")]


def _tenant_targets(passage: Passage) -> list[tuple[str, str]]:
    principal = passage.principal
    if principal is None:
        return []
    targets = [("organization", str(principal.organization_id)), ("key", str(principal.key_id))]
    if principal.workspace_id is not None:
        targets.append(("workspace", str(principal.workspace_id)))
    return targets


def _alias_targets(passage: Passage) -> list[tuple[str, str]]:
    return [] if passage.placement is None else [("route", passage.placement.route.alias)]


def _route_targets(passage: Passage) -> list[tuple[str, str]]:
    placement = passage.placement
    if placement is None:
        return []
    targets = [("route", placement.route.alias), *placement_targets(passage, placement)]
    if passage.grant is not None:
        targets.append(("engine", passage.grant.granted.engine_id))
    return targets


def placement_targets(passage: Passage, placement: Placement) -> list[tuple[str, str]]:
    """Return what a switch may name of one way to an answer."""
    targets = [("deployment", placement.deployment.name), ("provider", placement.provider.name)]
    if placement.provider.kind is ProviderKind.POOL:
        asked = passage.exchange.request.headers.get(b"x-interlock-class")
        targets += [("pool", placement.provider.pool or ""), ("class", service_class(asked, passage.class_max))]
    return targets


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
