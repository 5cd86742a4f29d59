"""The playground: a prompt goes through the front door as any caller's does, and its answer becomes a case.

Holds no key of the reader's: each call is made with one that is lent for it and ended behind it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.console.addresses import HTML, as_type, form_at, page_at
from interlock.console.config import ConsoleConfig
from interlock.console.frame import Frame
from interlock.console.playground_form import ORACLES, Asked, Outcome, Told, asked_of, asked_of_story, call_of, case_of
from interlock.console.render import fragment
from interlock.contracts.inference import ChatAnswer, ChatBegun, ChatText, Credential, ModelRefused, StreamingModels
from interlock.evals.public import Suites
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService, authorize
from interlock.foundation.ids import format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.wire import encode_event
from interlock.gateway import RouteService, Stories

_INFERENCE: Final = "inference"
_BYTES_MAX: Final = 1 << 20
_WORKSPACES_MAX: Final = 200
_SUITES_MAX: Final = 200
# How much longer than its call a lent key lives: it is ended behind the call, and by itself where nobody can.
_KEY_GRACE_S: Final = 10.0
_BUSY_S: Final = 5.0
_START: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class PlaygroundParts:
    """What the page stands on."""

    frame: Frame
    models: StreamingModels
    routes: RouteService
    identity: IdentityService
    stories: Stories
    suites: Suites
    config: ConsoleConfig


class Playground:
    """Serves the page."""

    def __init__(self, parts: PlaygroundParts) -> None:
        self._p = parts
        self._calls = 0
        self._ending: set[asyncio.Future[None]] = set()

    def statistics(self) -> dict[str, int]:
        """Return the calls that are open, of how many at most."""
        return {"playground_calls": self._calls, "playground_calls_max": self._p.config.playground_calls_max}

    async def show(self, call: Call) -> Reply:
        """Answer the form; with the id of a request, filled with what its story kept. Raises `request_not_found`."""
        asked, request_id = Asked(workspace=call.query.get("workspace_id", "")), call.query.get("request_id")
        if request_id:
            asked = asked_of_story(await self._p.stories.get(_may(call, "requests:read"), request_id), asked)
        return await self._page(call, asked, Told(of_story=request_id or ""))

    async def send(self, call: Call) -> Reply:
        """Ask, and answer the page with what came of it. Raises `invalid_request`, `overloaded`, `role_denied`."""
        asked, config = asked_of(call.form), self._p.config
        wanted, scope = call_of(asked, config.playground_whole_s), await self._place(call, asked)
        self._require_room()
        self._calls += 1
        try:
            credential = await self._lend(call, scope, config.playground_whole_s)
            try:
                found = await self._p.models.chat(credential, wanted)
            finally:
                await self._end(scope, credential)
        finally:
            self._calls -= 1
        return await self._page(call, asked, Told(outcome=Outcome.of(found)))

    async def stream(self, call: Call) -> Reply:
        """Ask, and answer with the answer as it comes: `begun`, `text`, and `end` with what the page shows then."""
        asked, config = asked_of(call.form), self._p.config
        wanted, scope = call_of(asked, config.playground_s), await self._place(call, asked)
        self._require_room()
        asked, around = replace(asked, workspace=_named(scope)), await self._saving(call, scope)
        credential = await self._lend(call, scope, config.playground_s)

        async def events() -> AsyncIterator[bytes]:
            self._calls += 1
            texts: list[str] = []
            try:
                async with aclosing(self._p.models.stream(credential, wanted)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, ChatText):
                            texts.append(piece.text)
                        yield _event(piece, asked, "".join(texts), around)
            finally:
                self._calls -= 1
                await self._end(scope, credential)

        return Reply(stream=events(), media_type="text/event-stream")

    async def save(self, call: Call) -> Reply:
        """Publish a version of a suite with one more case. Raises `invalid_request`, and what refuses a case."""
        asked = replace(asked_of(call.form), workspace=call.query.get("workspace_id", ""))
        await self._place(call, asked)
        name, body = case_of(asked, call.form)
        suite = await self._p.suites.add_case(call.tx, name, body)
        saved = {"suite": name, "version": suite["version"], "key": body["key"]}
        return await self._page(call, asked, Told(saved=saved), status=201)

    async def _page(self, call: Call, asked: Asked, told: Told, status: int = 200) -> Reply:
        scope = await self._place(call, asked)
        aliases = await self._p.routes.aliases(scope, await self._p.models.models(scope))
        values = {
            "asked": replace(asked, workspace=_named(scope)),
            "aliases": aliases,
            "workspaces": await self._workspaces(call),
            "told": told,
            "outcome": told.outcome,
            **await self._saving(call, scope),
        }
        return self._p.frame.page(call, "playground", values, status)

    async def _saving(self, call: Call, scope: Scope) -> dict[str, Any]:
        """Return what the form that saves a case needs."""
        may_save = _is_allowed(call, "evals:write", scope)
        suites: list[str] = []
        if may_save:
            async with call.store.transaction(scope) as tx:
                suites = await self._p.suites.names(tx, _SUITES_MAX)
        return {"may_save": may_save, "suites": suites, "oracles": ORACLES, "csrf": call.csrf_token}

    async def _workspaces(self, call: Call) -> list[dict[str, str]]:
        """Return those to choose from; none for whom there is one."""
        wide = _may(call, _INFERENCE)
        if not isinstance(wide.workspace_id, AllWorkspaces):
            return []
        rows = await self._p.identity.listed(wide, "workspace", _START, _WORKSPACES_MAX)
        return [{"id": format_id("ws", each["id"]), "name": each["name"]} for each in rows]

    async def _place(self, call: Call, asked: Asked) -> Scope:
        """Return the one workspace that is charged: the named one, else that of the key. Raises `not_found`."""
        scope = _may(call, _INFERENCE, asked.workspace_id)
        if not isinstance(scope.workspace_id, AllWorkspaces):
            async with call.store.transaction(scope) as tx:
                await self._p.identity.get(tx, "workspace", format_id("ws", scope.workspace_id))
            return scope
        own = call.who.workspace_id
        if own is None:
            raise InterlockError("invalid_request", "Name the workspace.", detail={"field": "workspace_id"})
        return replace(scope, workspace_id=own)

    def _require_room(self) -> None:
        if self._calls >= self._p.config.playground_calls_max:
            raise InterlockError("overloaded", retry_after_s=_BUSY_S)

    async def _lend(self, call: Call, scope: Scope, seconds: float) -> Credential:
        """Return a key for one call; its stories name the session that it was lent to."""
        session_id = call.who.session_id
        link = format_id("req", call.request_id) if session_id is None else format_id("ses", session_id)
        return await self._p.models.lend(scope, link=link, ttl_s=seconds + _KEY_GRACE_S)

    async def _end(self, scope: Scope, credential: Credential) -> None:
        """End a lent key, also where whoever waits has gone."""
        ending = asyncio.ensure_future(self._p.models.revoke(scope, credential))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)


def playground_pages(page: Playground) -> list[Route]:
    """Return the routes of the page."""
    sending = form_at("/playground", page.send, "Ask a model, and show its answer whole.", action=_INFERENCE,
                      codes=("overloaded",), bytes_max=_BYTES_MAX)  # fmt: skip
    streaming = form_at("/playground/stream", page.stream, "Ask a model, and show its answer as it comes.",
                        action=_INFERENCE, codes=("overloaded",), bytes_max=_BYTES_MAX)  # fmt: skip
    saving = form_at("/playground/cases", page.save, "Keep a prompt and its answer as a case.", action="evals:write",
                     codes=("invalid_case", "oracle_cannot_fail"), bytes_max=_BYTES_MAX)  # fmt: skip
    return [
        page_at("/playground", page.show, "Ask a model.", ("workspace_id", "request_id"), action=_INFERENCE,
                codes=("request_not_found",)),
        # The call of a model is no change of ours, and no transaction is held open for as long as it takes.
        replace(sending, is_mutation=False),
        as_type(replace(streaming, is_mutation=False), "text/event-stream"),
        replace(saving, query=("workspace_id",), status=201, media_type=HTML),
    ]  # fmt: skip


def _event(piece: Any, asked: Asked, text: str, around: dict[str, Any]) -> bytes:
    if isinstance(piece, ChatBegun):
        return encode_event(msgspec.json.encode(piece.request_id), event="begun")
    if isinstance(piece, ChatText):
        return encode_event(msgspec.json.encode(piece.text), event="text")
    assert isinstance(piece, ChatAnswer | ModelRefused)
    values = {"asked": asked, "outcome": Outcome.of(piece, text), **around}
    return encode_event(fragment("playground_answer.html", values), event="end")


def _named(scope: Scope) -> str:
    return "" if isinstance(scope.workspace_id, AllWorkspaces) else format_id("ws", scope.workspace_id)


def _may(call: Call, action: str, workspace_id: UUID | None = None) -> Scope:
    """Return what the caller may do beside what the route asked for. Raises `role_denied`, `not_found`."""
    verdict = authorize(call.who, action, Level.WORKSPACE, workspace_id, call.request_id)
    if isinstance(verdict, Scope):
        return verdict
    detail = {} if verdict.code == "not_found" else {"action": action, "roles": [str(each) for each in verdict.roles]}
    raise InterlockError(verdict.code, detail=detail)


def _is_allowed(call: Call, action: str, scope: Scope) -> bool:
    where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
    return isinstance(authorize(call.who, action, Level.WORKSPACE, where), Scope)
