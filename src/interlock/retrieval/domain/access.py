"""Who may read what: access lists, their one spelling, their digests, and whether one holds for a closure.

Pure. Does not know who is in which group: the caller brings the closure of a principal as a set of names.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.ids import MalformedIdError, format_id, parse_id

EVERYONE: Final = "everyone"
EVERYONE_ID: Final = UUID("00000000-0000-7000-8000-0000000000e1")
NOBODY: Final = AccessList(())
# The kind of outside name that probes of a source read by: no list, mapping or delegation from outside may name it.
PROBE_KIND: Final = "interlock_probe"
ID_KINDS: Final = {"user": "usr", "sa": "sa", "group": "grp"}
_CLAUSE_MAX: Final = 16
_NAME_MAX: Final = 300
_EXTERNAL: Final = re.compile(r"(src_[0-9a-z]{26}):([a-z][a-z0-9_]{0,31}):(.+)", re.DOTALL)
_FIELDS: Final = frozenset({"allow", "deny", "inherit"})


class InvalidAclError(ValueError):
    """The value is not an access list; the text says where."""


class Rule(StrEnum):
    """Why a list lets somebody in or not."""

    ALLOW_CLAUSE = "allow_clause"
    DENY = "deny"
    NO_CLAUSE = "no_clause"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a list says of a closure; `clause` is what decided, empty where nothing did."""

    rule: Rule
    clause: tuple[str, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether the list holds."""
        return self.rule is Rule.ALLOW_CLAUSE


@dataclass(frozen=True, slots=True)
class Folder:
    """What one container says: its own list if it has one, and whether its parent's counts as well.

    `is_unreadable` is set where the list could not be read: nobody gets anything through this folder.
    """

    own: AccessList | None
    inherit: bool = True
    is_unreadable: bool = False


def parse_acl(value: Any, principals_max: int = 1_000) -> AccessList:
    """Return the access list of a JSON value, names as they were given. Raises `InvalidAclError`.

    A clause is a principal or a list of principals that must all hold; an empty clause would hold for anybody and is
    refused. A field that is absent is empty, one that nobody knows is refused: a list read wrongly is a leak.
    """
    if not isinstance(value, Mapping):
        raise InvalidAclError("an access list is an object")
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        raise InvalidAclError(f"an access list has no field {str(unknown[0])[:40]!r}")
    inherit = value.get("inherit", False)
    if not isinstance(inherit, bool):
        raise InvalidAclError("inherit is true or false")
    allow = tuple(_clause(each) for each in _list(value.get("allow", []), "allow"))
    deny = tuple(_name(each) for each in _list(value.get("deny", []), "deny"))
    if sum(map(len, allow)) + len(deny) > principals_max:
        raise InvalidAclError(f"an access list names at most {principals_max} principals")
    return AccessList(allow, deny, inherit)


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidAclError(f"{field} is a list")
    return value


def _clause(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_name(value),)
    if not isinstance(value, list) or not 1 <= len(value) <= _CLAUSE_MAX:
        raise InvalidAclError(f"a clause is a principal or a list of 1 to {_CLAUSE_MAX} principals")
    return tuple(_name(each) for each in value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _NAME_MAX or "\x00" in value:
        raise InvalidAclError(f"a principal is a text of at most {_NAME_MAX} characters")
    if value == EVERYONE:
        return value
    kind, _, rest = value.partition(":")
    if kind == "ext" and _EXTERNAL.fullmatch(rest):
        return value
    if kind in ID_KINDS and rest:
        return value
    raise InvalidAclError(f"{value[:60]!r} is no principal; use user:, sa:, group:, ext:SRC:KIND:NAME or everyone")


def acl_json(acl: AccessList) -> dict[str, Any]:
    """Return the JSON form; a clause of one principal is that principal."""
    return {
        "allow": [clause[0] if len(clause) == 1 else list(clause) for clause in acl.allow],
        "deny": list(acl.deny),
        "inherit": acl.inherit,
    }


def names_of(acl: AccessList) -> frozenset[str]:
    """Return every principal that a list names."""
    return frozenset(acl.deny).union(*acl.allow) if acl.allow else frozenset(acl.deny)


def renamed(acl: AccessList, names: Mapping[str, str]) -> AccessList:
    """Return the list with names replaced by those of the mapping, e.g. addresses by ids, in its one spelling."""
    allow = (tuple(names.get(each, each) for each in clause) for clause in acl.allow)
    return canonical(AccessList(tuple(allow), tuple(names.get(each, each) for each in acl.deny), acl.inherit))


def canonical(acl: AccessList) -> AccessList:
    """Return the one spelling: clauses and principals sorted, each once."""
    clauses = {tuple(sorted(set(clause))) for clause in acl.allow}
    return AccessList(tuple(sorted(clauses)), tuple(sorted(set(acl.deny))), acl.inherit)


def set_digest(acl: AccessList) -> bytes:
    """Return the SHA-256 of what a list says itself, in its one spelling; whether it inherits is the slot's."""
    one = acl_json(canonical(acl))
    del one["inherit"]
    return hashlib.sha256(_text(one)).digest()


def acl_digest(acl: AccessList) -> bytes:
    """Return the SHA-256 of a document's own list, inheritance included."""
    return hashlib.sha256(_text(acl_json(canonical(acl)))).digest()


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def ruling(acl: AccessList, closure: Iterable[str]) -> Ruling:
    """Return what a list says of a closure: a principal with its groups, `everyone`, and its mapped outside names.

    Deny wins over any allow; a clause holds when all of it does; no clause means nobody.
    """
    held = closure if isinstance(closure, (set, frozenset)) else frozenset(closure)
    for each in acl.deny:
        if each in held:
            return Ruling(Rule.DENY, (each,))
    for clause in acl.allow:
        if clause and all(each in held for each in clause):
            return Ruling(Rule.ALLOW_CLAUSE, clause)
    return Ruling(Rule.NO_CLAUSE)


def effective(own: AccessList | None, folders: Sequence[Folder]) -> AccessList:
    """Return what counts for something that says `own` and inherits through `folders`, nearest first.

    `folders` is empty for what inherits nothing. Allows are united and denies are united, up to the first folder that
    breaks; through a folder that could not be read nobody gets anything.
    """
    allow: list[tuple[str, ...]] = list(own.allow) if own else []
    deny: list[str] = list(own.deny) if own else []
    for folder in folders:
        if folder.is_unreadable:
            return NOBODY
        if folder.own is not None:
            allow += folder.own.allow
            deny += folder.own.deny
        if not folder.inherit:
            break
    return canonical(AccessList(tuple(allow), tuple(deny)))


def principal_id(name: str) -> UUID:
    """Return the id under which a principal stands in the index, of its canonical name. Raises `MalformedIdError`."""
    if name == EVERYONE:
        return EVERYONE_ID
    kind, _, rest = name.partition(":")
    if kind == "ext":
        return external_id(name)
    if kind not in ID_KINDS:
        raise MalformedIdError(name)
    return parse_id(ID_KINDS[kind], rest)


def external_id(name: str) -> UUID:
    """Return the id of `ext:SRC:KIND:NAME`: a hash, so that no table of outside names is needed to evaluate a list."""
    raw = bytearray(hashlib.sha256(b"interlock-ext\x00" + name.encode()).digest()[:16])
    # A version 8 uuid (RFC 9562, section 5.8): no id that we mint is one, so the two never meet.
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))


def external_name(source_id: UUID, external: str) -> str:
    """Return `ext:SRC:KIND:NAME` of a source's `KIND:NAME`. Raises `InvalidAclError`."""
    return _name(f"ext:{format_id('src', source_id)}:{external}")


def is_of_probe(name: str) -> bool:
    """Tell whether a name is one of those that only probes have: `ext:SRC:interlock_probe:NAME`."""
    parts = name.split(":", 3)
    return len(parts) == 4 and parts[0] == "ext" and parts[2] == PROBE_KIND


def principal_name(kind: str, identity: UUID) -> str:
    """Return the canonical name of a user, service account or group."""
    return f"{kind}:{format_id(ID_KINDS[kind], identity)}"
