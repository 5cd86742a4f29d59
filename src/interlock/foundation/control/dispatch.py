"""One control call, step by step: caller, policy, rate, body, idempotency, work, answer.

Holds no routes and no rules of its own; it puts the others in their order.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from interlock.foundation.audit import AuditEntry, AuditLog, is_audit_failure
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.control.body import (
    FORM_TYPE,
    ClientGoneError,
    media_type,
    parse_form,
    parse_json,
    receive_body,
)
from interlock.foundation.control.caller import Caller, Gate, csrf_token_of, require_csrf, require_same_site
from interlock.foundation.control.config import ControlConfig
from interlock.foundation.control.cursors import Cursors
from interlock.foundation.control.envelope import Rendered, as_refusal, encode_json, render_error, rule_of
from interlock.foundation.control.idempotency import Idempotency, Reservation, StoredReply
from interlock.foundation.control.incoming import LIST_PARAMETERS, Incoming, parse_query
from interlock.foundation.control.rate import Rate
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.control.story import StoryDecision
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, parse_id
from interlock.foundation.scope import ALL_WORKSPACES, AllWorkspaces, Principal, Scope
from interlock.foundation.store import Store, Transaction, UniqueViolation
from interlock.foundation.telemetry import bind_request

_log = structlog.get_logger("control")
_ADMIN_ACTIONS: Final = ("admin:", "kill:", "audit:")
_OK: Final = 200
_UNSEEN: Final = frozenset({403, 404})
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
ErrorPage = Callable[[InterlockError, Incoming], Reply]


@dataclass(frozen=True, slots=True)
class Kit:
    """What the control process serves its routes with.

    `key` signs cursors and seals stored replies; all control processes of a platform share it.
    `error_page` renders refusals of HTML routes.
    """

    store: Store
    audit: AuditLog
    gate: Gate
    ids: IdFactory
    clock: Clock
    dice: Dice
    key: bytes = field(repr=False)
    config: ControlConfig = field(default_factory=ControlConfig)
    error_page: ErrorPage | None = None


class Dispatcher:
    """Serves one call after the other; owns the rates of this process."""

    def __init__(self, kit: Kit, registry: Iterable[Route] = ()) -> None:
        self._kit = kit
        self._pages = {route.path: route for route in registry if route.method == "GET"}
        config = kit.config
        self._cursors = Cursors(kit.key, config)
        self._idempotency = Idempotency(kit.key, kit.dice, config)
        self._mutations = Rate(kit.clock, config.mutations_per_s, config.rate_organizations_max)
        self._refusals = Rate(kit.clock, config.refusals_audited_per_s, config.rate_organizations_max)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return what the rates remember and refused."""
        return {"mutations": self._mutations.statistics(), "audited_refusals": self._refusals.statistics()}

    async def serve(self, route: Route, request: Incoming) -> Reply | Rendered:
        """Answer a call of a known route; refusals become answers, defects a 500 with the id in the log."""
        bind_request(request)
        try:
            return await self._serve(route, request)
        except ClientGoneError:
            raise
        except (InterlockError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            refusal = self._refusal(error, request)
        except Exception as error:  # noqa: BLE001 - the outermost handler: any defect is a 500 with its id
            refusal = self._defect(error, request)
        await self._audit_refusal(route, request, refusal)
        return self.refuse(refusal, request, is_html=route.is_html)

    def refuse(self, error: InterlockError, request: Incoming, *, is_html: bool) -> Reply | Rendered:
        """Return the answer of a refusal and tell the story."""
        request.story.outcome_code = error.code
        request.story.rule = rule_of(error)
        if is_html and self._kit.error_page is not None:
            return self._kit.error_page(error, request)
        return render_error(error, request.public_id)

    async def _serve(self, route: Route, request: Incoming) -> Reply | Rendered:
        query = parse_query(request.query_text, None if route.is_html else LIST_PARAMETERS | frozenset(route.query))
        if any("\x00" in value for value in request.params.values()):
            raise InterlockError("not_found")
        caller, scope = await self._admit(route, request, query)
        if route.is_mutation and caller is not None:
            self._take_rate(caller.principal)
        call, raw = await self._call(route, request, query, caller, scope)
        if route.is_mutation and scope is not None:
            return await self._mutate(route, request, call, raw)
        if route.is_idempotent and scope is not None and "idempotency-key" in request.headers:
            return await self._once(route, request, call, raw)
        reply = await route.handler(call)
        self._told(request, call)
        return reply

    async def _admit(
        self, route: Route, request: Incoming, query: dict[str, str]
    ) -> tuple[Caller | None, Scope | None]:
        if route.level is Level.PUBLIC or route.action is None:
            if route.is_html and request.method in _UNSAFE:
                require_same_site(request.headers, is_browser_certain=False)
            return None, None
        gate = self._kit.gate
        caller = await gate.caller(request.headers, request.cookies, self._kit.clock.now_us())
        principal = request.principal = caller.principal
        story = request.story
        story.organization_id, story.workspace_id = principal.organization_id, principal.workspace_id
        story.key_id = principal.key_id
        request.may_open = partial(self._may_open, principal)
        credential = "session" if caller.session_token else "key"
        story.decisions.append(StoryDecision("authenticated", f"identity.{credential}", "allow"))
        named = query.get("workspace_id") if "workspace_id" in route.query else None
        # A form that leaves its filter empty means none.
        wanted = parse_id("ws", named) if named else None
        scope = gate.scope(principal, route.action, route.level, wanted, request.request_id)
        if not isinstance(scope.workspace_id, AllWorkspaces):
            story.workspace_id = scope.workspace_id
        story.decisions.append(StoryDecision("policy", route.action, "allow"))
        return caller, scope

    async def _call(
        self,
        route: Route,
        request: Incoming,
        query: dict[str, str],
        caller: Caller | None,
        scope: Scope | None,
    ) -> tuple[Call, bytes]:
        raw, form, body = b"", {}, None
        token = None if caller is None else caller.session_token
        if request.method in _UNSAFE:
            config = self._kit.config
            raw = await receive_body(request.receive, request.headers, route.body_bytes_max, config.body_idle_s)
            kind = media_type(request.headers)
            if route.is_html and kind in {FORM_TYPE, ""}:
                form = parse_form(raw)
            if token is not None:
                require_csrf(request.headers, form, token)
            if not (route.is_html and kind in {FORM_TYPE, ""}):
                body = parse_json(raw, kind, route.body, config.json_depth_max)
        call = Call(
            request_id=request.request_id,
            principal=None if caller is None else caller.principal,
            scope=scope,
            store=self._kit.store,
            params=request.params,
            query=query,
            headers=request.headers,
            cookies=request.cookies,
            form=form,
            body=body,
            route=f"{route.method} {route.path}",
            address=request.headers.get("x-interlock-address"),
            csrf_token="" if token is None else csrf_token_of(token),
            cursors=self._cursors,
            may_open=request.may_open,
        )
        call.sees = partial(self._sees, call)
        return call, raw

    def _may_open(self, principal: Principal, path: str) -> bool:
        route = self._pages.get(path)
        return route is not None and self._kit.gate.lets_in(principal, route)

    async def _sees(self, call: Call, path: str, named: str) -> bool:
        """Ask the route itself, in the caller's name: there is no second rule of who may see what."""
        route = self._pages.get(path)
        if route is None or route.action is None or call.principal is None:
            return False
        place = path.partition("{")[2].partition("}")[0]
        try:
            scope = self._kit.gate.scope(call.principal, route.action, route.level, None, call.request_id)
            asked = replace(
                call, scope=scope, params={place: named}, query={}, route=f"GET {path}", decisions=[], links=[]
            )
            return (await route.handler(asked)).status == _OK
        except InterlockError as refusal:
            if refusal.http_status not in _UNSEEN:
                raise
            return False

    async def _mutate(self, route: Route, request: Incoming, call: Call, raw: bytes) -> Reply | Rendered:
        mine = self._reservation(request, call, raw)

        settles: list[Callable[[], Awaitable[Reply]]] = []

        async def work(tx: Transaction) -> Reply | Rendered:
            call.transaction = tx
            settles.clear()
            call.decisions.clear()
            call.links.clear()
            stored = None if mine is None else await self._replayed(tx, mine, call)
            if stored is not None:
                return stored
            reply = await route.handler(call)
            if reply.settle is not None:
                settles.append(reply.settle)
            return reply if mine is None or reply.stream is not None else await self._keep(tx, mine, reply)

        turn = nullcontext() if mine is None else self._idempotency.turn(call.within, mine)
        async with turn:
            answer = await self._kit.store.run(call.within, work)
        for settle in settles:
            answer = await settle()
        self._told(request, call)
        return answer

    async def _once(self, route: Route, request: Incoming, call: Call, raw: bytes) -> Reply | Rendered:
        """Run a call that ends its own transactions, unless its reply is kept already.

        A crash between its work and its reply lets it run again, which such a route bears.
        """
        mine = self._reservation(request, call, raw)
        assert mine is not None
        store, scope = self._kit.store, call.within
        async with self._idempotency.turn(scope, mine):
            answer: Reply | Rendered | None = await store.run(scope, lambda tx: self._replayed(tx, mine, call))
            if answer is None:
                reply = await route.handler(call)
                answer = await store.run(scope, lambda tx: self._keep(tx, mine, reply))
        self._told(request, call)
        return answer

    def _reservation(self, request: Incoming, call: Call, raw: bytes) -> Reservation | None:
        key = request.headers.get("idempotency-key")
        if key is None:
            return None
        return self._idempotency.reservation(call.route, key, call.within, request.target, raw)

    async def _replayed(self, tx: Transaction, mine: Reservation, call: Call) -> Rendered | None:
        stored = await self._idempotency.reserve(tx, mine)
        if stored is None:
            return None
        call.decisions.append(StoryDecision("idempotency", "control.replayed", "replayed"))
        return Rendered(stored.status, {**stored.headers, "x-interlock-replayed": "true"}, stored.content)

    async def _keep(self, tx: Transaction, mine: Reservation, reply: Reply) -> Rendered:
        rendered = render(reply)
        await self._idempotency.keep(tx, mine, StoredReply(rendered.status, dict(rendered.headers), rendered.content))
        return rendered

    def _take_rate(self, principal: Principal) -> None:
        wait_s = self._mutations.take(principal.organization_id)
        if wait_s:
            detail = {"limit_per_s": self._kit.config.mutations_per_s}
            raise InterlockError("admin_rate_limit", detail=detail, retry_after_s=wait_s)

    @staticmethod
    def _told(request: Incoming, call: Call) -> None:
        request.story.decisions.extend(call.decisions)
        request.story.links.extend(call.links)

    def _refusal(self, error: Exception, request: Incoming) -> InterlockError:
        refusal = as_refusal(error)
        if refusal is not None:
            return refusal
        if isinstance(error, asyncpg.PostgresError) and is_audit_failure(error):
            return InterlockError("audit_unavailable", detail={"cause": type(error).__name__})
        if isinstance(error, UniqueViolation):
            return InterlockError("name_taken")
        if isinstance(error, asyncpg.DataError):
            return InterlockError("invalid_request", "A value is outside of what the store can hold.")
        return self._defect(error, request)

    def _defect(self, error: Exception, request: Incoming) -> InterlockError:
        _log.error(
            "call_failed", request_id=request.public_id, target=request.path, error=type(error).__name__, exc_info=error
        )
        return InterlockError("internal_error")

    async def _audit_refusal(self, route: Route, request: Incoming, error: InterlockError) -> None:
        """Keep a trace of who was refused an administrative action; the refusal stands without it too."""
        organization_id: UUID | None = request.story.organization_id
        principal = request.principal
        if error.http_status != 403 or organization_id is None or principal is None:
            return
        if not (route.action or "").startswith(_ADMIN_ACTIONS) or self._refusals.take(organization_id):
            return
        entry = AuditEntry(
            action="policy.refuse",
            target_kind="route",
            target_id=f"{route.method} {route.path}",
            outcome="refused",
            reason=error.code,
            detail={"action": route.action or "", "path": request.path},
        )
        try:
            async with self._kit.store.ops("audit of a refusal") as tx:
                scope = Scope(principal.organization_id, ALL_WORKSPACES, principal, request.request_id)
                await self._kit.audit.append(tx, entry, scope)
        except InterlockError as failure:
            _log.error("refusal_not_audited", request_id=request.public_id, code=failure.code)


def render(reply: Reply) -> Rendered:
    """Return a handler's answer in bytes; not for streams."""
    content = reply.content
    if content is None:
        content = b"" if reply.body is None else encode_json(reply.body)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    if content or reply.status not in {204, 303, 304}:
        headers.setdefault("content-type", reply.media_type)
    return Rendered(reply.status, headers, content)
