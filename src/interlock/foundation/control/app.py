"""The ASGI application of the control process, built from the registry of routes.

Knows no system and listens nowhere; `wiring.py` hands it to uvicorn on a unix socket.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.routing import Route as PathRoute
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from interlock.foundation.control.body import ClientGoneError
from interlock.foundation.control.dispatch import Dispatcher, Kit, render
from interlock.foundation.control.envelope import Rendered
from interlock.foundation.control.incoming import Incoming, incoming
from interlock.foundation.control.openapi import Beside, document
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.control.story import STORY_HEADER
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory


def build_app(routes: Iterable[Route], kit: Kit, beside: Beside | None = None) -> Starlette:
    """Return the application; `beside` is described with it, and served elsewhere.

    Raises `ValueError` when two routes have the same method and path.
    """
    registry = [*routes]
    registry.append(_openapi_route(registry, beside))
    dispatcher = Dispatcher(kit, registry)
    by_path: dict[str, dict[str, Route]] = {}
    for route in registry:
        methods = by_path.setdefault(route.path, {})
        if methods.setdefault(route.method, route) is not route:
            raise ValueError(f"{route.method} {route.path} is there twice")
    paths: list[BaseRoute] = [
        PathRoute(path, _PathEndpoint(methods, dispatcher, kit.ids), include_in_schema=False)
        for path, methods in sorted(by_path.items(), key=lambda item: _order(item[0]))
    ]
    app = Starlette(routes=paths)
    app.router.redirect_slashes = False
    app.router.default = _PathEndpoint({}, dispatcher, kit.ids)
    app.state.dispatcher = dispatcher
    app.state.registry = registry
    return app


class _PathEndpoint:
    """All methods of one path; none for the path that nobody registered."""

    def __init__(self, methods: Mapping[str, Route], dispatcher: Dispatcher, ids: IdFactory) -> None:
        self._methods = methods
        self._dispatcher = dispatcher
        self._ids = ids

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = incoming(scope, receive, self._ids)
        try:
            answer = await self._answer(request)
            await _response(answer, request)(scope, receive, send)
        except (ClientGoneError, ClientDisconnect):
            return

    async def _answer(self, request: Incoming) -> Reply | Rendered:
        route = self._methods.get("GET" if request.method == "HEAD" else request.method)
        if route is not None:
            return await self._dispatcher.serve(route, request)
        is_html = "text/html" in request.headers.get("accept", "")
        if not self._methods:
            return self._dispatcher.refuse(InterlockError("not_found"), request, is_html=is_html)
        allow = sorted({*self._methods, *({"HEAD"} if "GET" in self._methods else ())})
        error = InterlockError("method_not_allowed", headers={"allow": ", ".join(allow)})
        return self._dispatcher.refuse(error, request, is_html=False)


def _response(answer: Reply | Rendered, request: Incoming) -> Response:
    own = {
        "x-request-id": request.public_id,
        "request-id": request.public_id,
        STORY_HEADER: request.story.to_header(),
        "x-content-type-options": "nosniff",
    }
    if isinstance(answer, Reply) and answer.stream is not None:
        kept = {"cache-control": "no-store", "x-accel-buffering": "no", **answer.headers, **own}
        return StreamingResponse(answer.stream, answer.status, kept, answer.media_type)
    rendered = render(answer) if isinstance(answer, Reply) else answer
    return Response(rendered.content, rendered.status, {"cache-control": "no-store", **rendered.headers, **own})


def _order(path: str) -> list[tuple[int, str]]:
    """Sort literal parts before parameters, and parameters that take the rest of a path last."""
    return [(0 if "{" not in part else 2 if ":path" in part else 1, part) for part in path.split("/")]


def _openapi_route(registry: list[Route], beside: Beside | None) -> Route:
    built: dict[str, Any] = {}

    async def openapi(_call: Call) -> Reply:
        if not built:
            built.update(document(registry, beside))
        return Reply(body=built)

    return Route("GET", "/openapi.json", Level.PUBLIC, openapi, "This document.")
