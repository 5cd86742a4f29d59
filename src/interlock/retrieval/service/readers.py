"""For whom a call reads: its own principal, or another one that it may act as.

Grants nothing: a reader only says whose view is built, and the view is what the access lists give.
"""

from typing import Final, Protocol
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.control.route import Level
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.scope import PrincipalKind, Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.domain.access import (
    EVERYONE,
    InvalidAclError,
    external_id,
    is_of_probe,
    parse_acl,
    principal_name,
)
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.store.reading.search import same_outsider

_KINDS: Final = {PrincipalKind.USER: "user", PrincipalKind.SERVICE_ACCOUNT: "sa"}
DELEGATE: Final = "retrieval:delegate"


class Members(Protocol):
    """Who is who in an organization."""

    async def member(self, tx: Transaction, named: str) -> tuple[UUID, str]:
        """Return id and kind of a user, service account or group. Raises `not_found`."""
        ...


def own_reader(scope: Scope) -> Reader:
    """Return the caller as a reader. Raises `principal_not_found` for the platform itself, which reads nothing."""
    principal = scope.principal
    kind = _KINDS.get(principal.kind)
    if kind is None:
        raise InterlockError("principal_not_found")
    return Reader(principal_name(kind, principal.id), kind, (principal.id,))


async def reader_of(store: Store, members: Members, scope: Scope, named: str | None) -> Reader:
    """Return for whom a call reads. Raises `delegation_denied` before anything is looked up, `principal_not_found`."""
    if named is None:
        return own_reader(scope)
    if scope.principal.kind in _KINDS and named == own_reader(scope).name:
        return own_reader(scope)
    workspace = scope.principal.workspace_id
    verdict = authorize(scope.principal, DELEGATE, Level.WORKSPACE, workspace, scope.request_id)
    if not isinstance(verdict, Scope):
        raise InterlockError("delegation_denied")
    return await named_reader(store, members, scope, named)


async def named_reader(store: Store, members: Members, scope: Scope, named: str) -> Reader:
    """Return somebody as a reader, whoever asks. Raises `principal_not_found`."""
    try:
        (name,) = parse_acl({"allow": [named]}).allow[0]
    except InvalidAclError as error:
        raise InterlockError("principal_not_found") from error
    if is_of_probe(name):
        raise InterlockError("principal_not_found")
    if name == EVERYONE:
        return Reader(EVERYONE, EVERYONE, ())
    async with store.transaction(scope) as tx:
        if name.startswith("ext:"):
            return Reader(name, "ext", (), await same_outsider(tx, external_id(name)))
        try:
            identity, kind = await members.member(tx, name)
        except InterlockError as error:
            if error.code != "not_found":
                raise
            raise InterlockError("principal_not_found") from error
    return Reader(principal_name(kind, identity), kind, (identity,))


async def tell_delegation(store: Store, audit: AuditLog, scope: Scope, reader: Reader, what: str) -> None:
    """Tell the audit that somebody read as somebody else; for oneself there is nothing to tell."""
    if scope.principal.kind is not PrincipalKind.SYSTEM and reader == own_reader(scope):
        return
    async with store.transaction(scope) as tx:
        await audit.append(tx, AuditEntry("retrieval.delegate", "principal", reader.name, detail={"call": what}))
