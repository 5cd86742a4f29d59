"""Names in access lists become ids of people, programs and groups that exist; a list that names a stranger is refused.

Does not evaluate lists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.ids import MalformedIdError, parse_id
from interlock.foundation.store import Transaction
from interlock.retrieval.domain.access import (
    EVERYONE,
    ID_KINDS,
    canonical,
    is_of_probe,
    names_of,
    principal_name,
    renamed,
)
from interlock.retrieval.store.ingest import sources as rows

_NO_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class UnknownPrincipal:
    """The list names somebody who does not exist."""

    name: str


async def known_names(tx: Transaction, names: Iterable[str]) -> dict[str, str]:
    """Return name -> canonical name of everybody in `names` who exists; outside names stand for themselves."""
    # A probe is nobody whom a list could name.
    wanted = sorted({each for each in names if not is_of_probe(each)})
    ids: list[UUID] = []
    addresses: list[str] = []
    groups: list[str] = []
    known: dict[str, str] = {}
    for name in wanted:
        kind, _, rest = name.partition(":")
        if name == EVERYONE or kind == "ext":
            known[name] = name
            continue
        identity = _parsed(ID_KINDS[kind], rest)
        if identity != _NO_ID:
            ids.append(identity)
        elif kind == "user":
            addresses.append(rest.lower())
        elif kind == "group":
            groups.append(rest)
    if not (ids or addresses or groups):
        return known
    found = await rows.people(tx, ids, addresses, groups)
    by_id = {(kind, identity): principal_name(kind, identity) for kind, identity, _ in found}
    by_name = {(kind, name): principal_name(kind, identity) for kind, identity, name in found}
    for name in wanted:
        kind, _, rest = name.partition(":")
        if kind not in ID_KINDS:
            continue
        key = rest.lower() if kind == "user" else rest
        match = by_id.get((kind, _parsed(ID_KINDS[kind], rest))) or by_name.get((kind, key))
        if match is not None and (kind != "sa" or _parsed("sa", rest) != _NO_ID):
            known[name] = match
    return known


def resolved(acl: AccessList, known: Mapping[str, str]) -> AccessList | UnknownPrincipal:
    """Return the list with ids for names, in its one spelling."""
    for name in sorted(names_of(acl)):
        if name not in known:
            return UnknownPrincipal(name)
    return canonical(renamed(acl, known))


def _parsed(prefix: str, text: str) -> UUID:
    try:
        return parse_id(prefix, text)
    except MalformedIdError:
        return _NO_ID
