"""Signing in and out: the form, the session's cookie, and the pages of refusals.

Checks no credential itself; `Sessions` does, and answers every wrong one alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from interlock.console.frame import Frame
from interlock.console.render import page
from interlock.foundation.control.caller import SESSION_COOKIES, csrf_token_of, session_token
from interlock.foundation.control.envelope import error_headers
from interlock.foundation.control.incoming import Incoming
from interlock.foundation.control.route import Call, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import Sessions

LOGIN: Final = "/console/login"
HOME: Final = "/console"
REFUSED: Final = "That did not sign you in. Check the key, that it is live and that it has the scope console."
_COOKIE_HTTPS, _COOKIE_HTTP = SESSION_COOKIES
_NEXT_CHARS_MAX: Final = 2_048
_HEADINGS: Final = {
    400: "That is not a question we understand",
    403: "Not for you",
    404: "Nothing here",
    429: "Too fast",
    500: "Something broke",
    503: "Away for a moment",
}


@dataclass(frozen=True, slots=True)
class SignIn:
    """Serves the form. `is_https` is whether callers reach the console by https."""

    sessions: Sessions
    is_https: bool = False

    async def form(self, call: Call) -> Reply:
        """Answer the form; a one-time link brings its token along."""
        return sign_in_page(200, None, call.query.get("next", ""), call.query.get("once", ""))

    async def enter(self, call: Call) -> Reply:
        """Sign in and go on to where the reader wanted to. Raises `invalid_key`, `admin_rate_limit`."""
        once = call.form.get("once", "")
        if once:
            token = await self.sessions.sign_in_once(once, call.address)
        else:
            token = await self.sessions.sign_in(call.form.get("key", "").strip(), call.address)
        wanted = call.form.get("next", "") or call.query.get("next", "")
        return self._sent_on(safe_next(wanted), f"{token}")

    async def leave(self, call: Call) -> Reply:
        """End the session."""
        token = session_token(call.cookies)
        if token is not None:
            await self.sessions.end(token)
        return self._sent_on(LOGIN, "")

    def _sent_on(self, location: str, token: str) -> Reply:
        name, flags = (_COOKIE_HTTPS, "; Secure") if self.is_https else (_COOKIE_HTTP, "")
        ends = "" if token else "; Max-Age=0"
        cookie = f"{name}={token}; Path=/; HttpOnly; SameSite=Lax{flags}{ends}"
        headers = {"location": location, "set-cookie": cookie, "cache-control": "no-store"}
        return Reply(303, content=b"", headers=headers)


def safe_next(wanted: str) -> str:
    """Return a path of this origin; anything else becomes the overview."""
    is_path = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted
    if not is_path or len(wanted) > _NEXT_CHARS_MAX or not (wanted.isascii() and wanted.isprintable()):
        return HOME
    parts = urlsplit(wanted)
    return HOME if parts.netloc or parts.scheme or " " in wanted else wanted


def sign_in_page(status: int, notice: str | None, wanted: str, once: str = "") -> Reply:
    """Render the form. `wanted` is where the reader goes on to."""
    going = safe_next(wanted) if wanted else ""
    action = f"{LOGIN}?{urlencode({'next': going})}" if going and going != HOME else LOGIN
    return page("login.html", {"notice": notice, "action": action, "once": once}, status)


def error_page(frame: Frame) -> Callable[[InterlockError, Incoming], Reply]:
    """Return what renders the refusals of HTML routes."""

    def render(error: InterlockError, request: Incoming) -> Reply:
        answer = _signed_out(error, request) if _asks_to_sign_in(error, request) else _refusal(frame, error, request)
        headers = {**answer.headers, **error_headers(error)}
        return Reply(answer.status, content=answer.content, media_type=answer.media_type, headers=headers)

    return render


def _asks_to_sign_in(error: InterlockError, request: Incoming) -> bool:
    return error.http_status == 401 or (request.path == LOGIN and request.principal is None)


def _signed_out(error: InterlockError, request: Incoming) -> Reply:
    if request.path == LOGIN:
        wanted = dict(parse_qsl(request.query_text)).get("next", "")
        notice = REFUSED if error.http_status == 401 else f"{error.message} Try again in a moment."
        return sign_in_page(error.http_status, notice, wanted)
    wanted = f"{request.path}?{request.query_text}" if request.query_text else request.path
    ended = error.message if error.code == "session_expired" else None
    return sign_in_page(error.http_status, ended, wanted if request.method == "GET" else HOME)


def _refusal(frame: Frame, error: InterlockError, request: Incoming) -> Reply:
    token = session_token(request.cookies)
    csrf = "" if token is None else csrf_token_of(token)
    heading = _HEADINGS.get(error.http_status, "That did not work")
    values: dict[str, Any] = {
        **frame.around(request.principal, csrf, request.may_open),
        "title": heading,
        "heading": heading,
        "here": "",
        "open": "",
        "error": error,
        "request_id": request.public_id,
        "is_signed_in": request.principal is not None,
    }
    return page("error.html", values, error.http_status)
