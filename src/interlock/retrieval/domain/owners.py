"""OWNERS files: who reads what, by folder and by pattern. Approvers and reviewers read; aliases are groups.

Pure: gets the parsed file, and never a folder. The form is that of the Kubernetes project (go.k8s.io/owners): `filters`
match the path below the file's own folder, `no_parent_owners` ends the inheritance.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import re2

from interlock.contracts.documents import AccessList

FILE: Final = "OWNERS"
ALIASES_FILE: Final = "OWNERS_ALIASES"
_EVERY_FILE: Final = ".*"
_NAMES_MAX: Final = 5_000
_FILTERS_MAX: Final = 200
_PATTERN_CHARS_MAX: Final = 500
# Names that could not stand in an access list, or that would be read as something else.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,199}")


class MalformedOwnersError(ValueError):
    """The file is not what an OWNERS file is; its folder is read by nobody."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Readers of the paths that a pattern matches, from the folder of its file on."""

    pattern: Any
    readers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Owners:
    """One file. `readers` read everything below; `is_break` ends what comes from above."""

    readers: frozenset[str]
    filters: tuple[Filter, ...] = ()
    is_break: bool = False


Aliases = Mapping[str, frozenset[str]]


def parse_aliases(value: Any) -> dict[str, frozenset[str]]:
    """Return the members of each alias, all names in lower case. Raises `MalformedOwnersError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not isinstance(value.get("aliases", {}), Mapping):
        raise MalformedOwnersError("aliases is a mapping of names to lists of names")
    found = value.get("aliases") or {}
    return {_name(alias): _names(members, "an alias") for alias, members in found.items()}


def parse_owners(value: Any) -> Owners:
    """Return one file. Raises `MalformedOwnersError`: a file that is read wrongly would be a leak."""
    if not isinstance(value, Mapping):
        raise MalformedOwnersError("an OWNERS file is a mapping")
    options = value.get("options") or {}
    if not isinstance(options, Mapping) or not isinstance(options.get("no_parent_owners", False), bool):
        raise MalformedOwnersError("options.no_parent_owners is true or false")
    readers = _readers(value)
    filters: list[Filter] = []
    given = value.get("filters") or {}
    if not isinstance(given, Mapping) or len(given) > _FILTERS_MAX:
        raise MalformedOwnersError("filters is a mapping of patterns")
    for pattern, entry in given.items():
        if not isinstance(entry, Mapping):
            raise MalformedOwnersError("a filter has approvers and reviewers")
        if pattern == _EVERY_FILE:
            readers |= _readers(entry)
        else:
            filters.append(Filter(_pattern(pattern), _readers(entry)))
    return Owners(readers, tuple(filters), options.get("no_parent_owners", False))


def expanded(readers: Iterable[str], aliases: Aliases, source: str) -> AccessList:
    """Return the list that lets readers in: each name as a person, an alias as a group and as its members."""
    names: set[str] = set()
    for reader in readers:
        if reader in aliases:
            names.add(f"ext:{source}:group:{reader}")
            names |= {f"ext:{source}:user:{each}" for each in aliases[reader]}
        else:
            names.add(f"ext:{source}:user:{reader}")
    return AccessList(tuple((name,) for name in sorted(names)))


def is_given(acl: AccessList | None, source: str) -> bool:
    """Tell whether a list of a file is one that filters gave: readers of the source, nothing else, and it inherits."""
    if acl is None or not acl.inherit or acl.deny or not acl.allow:
        return False
    return all(name.startswith(f"ext:{source}:") for clause in acl.allow for name in clause)


def filtered(chain: Iterable[tuple[str, Owners]], path: str) -> frozenset[str]:
    """Return who reads `path` by filters; `chain` are (folder, file) from the nearest up.

    Neither the path nor the folders begin with a slash.
    """
    found: frozenset[str] = frozenset()
    for folder, owners in chain:
        below = path[len(folder) + 1 :] if folder else path
        for each in owners.filters:
            if each.pattern.search(below):
                found |= each.readers
        if owners.is_break:
            break
    return found


def _readers(entry: Mapping[str, Any]) -> frozenset[str]:
    return _names(entry.get("approvers"), "approvers") | _names(entry.get("reviewers"), "reviewers")


def _names(value: Any, what: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or len(value) > _NAMES_MAX:
        raise MalformedOwnersError(f"{what} is a list of names")
    return frozenset(_name(each) for each in value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise MalformedOwnersError("a name is letters, digits and . _ / @ + -")
    return value.lower()


def _pattern(value: Any) -> Any:
    if not isinstance(value, str) or len(value) > _PATTERN_CHARS_MAX:
        raise MalformedOwnersError("a pattern is a text")
    try:
        # The same syntax as Go's, and linear in the path, whatever somebody wrote.
        return re2.compile(value)
    except re2.error as error:
        raise MalformedOwnersError("a pattern is a regular expression") from error
