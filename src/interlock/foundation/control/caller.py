"""Who calls: the credential of a request, what checks it, and the proof that a page of ours sent a form.

Decides nothing about what the caller may do; the policy does.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol
from uuid import UUID

from interlock.foundation.control.route import Level, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import RequestId
from interlock.foundation.scope import Principal, Scope

SESSION_COOKIES: Final = ("__Host-interlock_session", "interlock_session")
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf_token"


class Authenticator(Protocol):
    """Keys. `check` answers from memory: an object with a `principal`, or one with `code`, `detail`, `is_miss`."""

    def check(self, presented: str, address: str | None, now_us: int) -> Any:
        """Judge a presented key without I/O."""
        ...

    async def check_store(self, presented: str, address: str | None) -> Any:
        """Ask the store about a well-formed key that memory does not know; rate-limited."""
        ...


class Sessions(Protocol):
    """Console sessions."""

    async def check(self, token: str, address: str | None) -> Principal:
        """Return who signed in. Raises `session_expired`, or `store_unavailable`."""
        ...


class Authorize(Protocol):
    """The policy: a `Scope`, or an object with the `code`, `action` and `roles` of the refusal."""

    def __call__(
        self,
        principal: Principal,
        action: str,
        level: Level,
        workspace_id: UUID | None = None,
        request_id: RequestId | None = None,
    ) -> Any:
        """Judge one action of one caller."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `session_token` is set when a cookie and not a key was presented."""

    principal: Principal
    session_token: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The three judges of a call, in their order."""

    keys: Authenticator
    sessions: Sessions | None
    authorize: Authorize

    async def caller(self, headers: Mapping[str, str], cookies: Mapping[str, str], now_us: int) -> Caller:
        """Return the caller. Raises the 401s, `ip_denied`, `identity_unavailable` and `store_unavailable`."""
        address = headers.get("x-interlock-address")
        presented = presented_key(headers)
        if presented is not None:
            return Caller(await self._key_owner(presented, address, now_us))
        token = session_token(cookies)
        if token is None or self.sessions is None:
            raise InterlockError("invalid_key", headers={"www-authenticate": "Bearer"})
        return Caller(await self.sessions.check(token, address), token)

    def scope(
        self, principal: Principal, action: str, level: Level, workspace_id: UUID | None, request_id: RequestId
    ) -> Scope:
        """Return what the caller may see. Raises `scope_denied`, `role_denied` or `not_found`."""
        verdict = self.authorize(principal, action, level, workspace_id, request_id)
        if isinstance(verdict, Scope):
            return verdict
        detail = {"action": verdict.action, "roles": [str(role) for role in verdict.roles]}
        code = getattr(verdict, "code", "role_denied")
        raise InterlockError(code, detail={} if code == "not_found" else detail)

    def lets_in(self, principal: Principal, route: Route) -> bool:
        """Tell whether the policy has anything to show to the caller of this route; in words, what `scope` does."""
        return route.action is None or isinstance(self.authorize(principal, route.action, route.level), Scope)

    async def _key_owner(self, presented: str, address: str | None, now_us: int) -> Principal:
        outcome = self.keys.check(presented, address, now_us)
        if getattr(outcome, "is_miss", False):
            outcome = await self.keys.check_store(presented, address)
        principal = getattr(outcome, "principal", None)
        if isinstance(principal, Principal):
            return replace(principal, address=address)
        headers = {"www-authenticate": "Bearer"} if outcome.code.startswith(("invalid_", "key_")) else None
        raise InterlockError(outcome.code, detail=dict(outcome.detail or {}), headers=headers)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of `Authorization: Bearer` or `x-api-key`, None where neither is there."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        # Another scheme is a wrong credential, not a missing one: a cookie must not stand in for it.
        return key.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-api-key")


def session_token(cookies: Mapping[str, str]) -> str | None:
    """Return the session cookie's value."""
    return next((cookies[name] for name in SESSION_COOKIES if cookies.get(name)), None)


def csrf_token_of(token: str) -> str:
    """Return the token that forms of this session carry. Only who can read the session cookie can make it."""
    return hmac.digest(token.encode(), b"interlock-csrf-v1", hashlib.sha256).hex()


def require_same_site(headers: Mapping[str, str], *, is_browser_certain: bool) -> None:
    """Refuse a mutation that another site's page sent.

    `Sec-Fetch-Site` decides where it is there, else `Origin`. With neither, `is_browser_certain` refuses:
    a cookie was presented, so a browser sent this, and a browser sends one of the two.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site is not None:
        is_own = site == "same-origin"
    elif origin is not None:
        is_own = origin.partition("://")[2] == headers.get("host", "")
    else:
        is_own = not is_browser_certain
    if not is_own:
        raise InterlockError("csrf_refused")


def require_csrf(headers: Mapping[str, str], form: Mapping[str, str], token: str) -> None:
    """Refuse a mutation of a cookie session that is cross-site or carries no valid token."""
    require_same_site(headers, is_browser_certain=True)
    presented = headers.get(CSRF_HEADER) or form.get(CSRF_FIELD) or ""
    if not hmac.compare_digest(presented.encode(), csrf_token_of(token).encode()):
        raise InterlockError("csrf_refused")
