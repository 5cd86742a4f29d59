"""Who may read what, by brute force over a few sets; written apart from the platform's own rules, from the page alone.

Talks to nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Acl = Mapping[str, Any]


@dataclass(slots=True)
class Note:
    """A document that was pushed; `canary` is a word that stands in it and nowhere else."""

    id: str
    external_id: str
    source: str
    container: str | None
    acl: Acl | None
    canary: str
    is_deleted: bool = False


@dataclass(slots=True)
class Folder:
    """What a folder says."""

    acl: Acl | None = None
    inherit: bool = True


@dataclass(slots=True)
class Oracle:
    """The world as it should be. Principals are the names that the API takes."""

    edges: set[tuple[str, str]] = field(default_factory=set)
    folders: dict[tuple[str, str], Folder] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)
    dark: set[str] = field(default_factory=set)

    def held_by(self, reader: str) -> set[str]:
        """Return everything that a reader is."""
        held = {reader, "everyone"}
        while True:
            more = {group for member, group in self.edges if member in held} - held
            if not more:
                return held
            held |= more

    def may_read(self, reader: str, note: Note) -> bool:
        """Tell whether a reader may read a document."""
        if note.is_deleted or note.acl is None or note.source in self.dark:
            return False
        held = self.held_by(reader)
        lists = list(self._lists(note))
        if any(name in held for acl in lists for name in acl.get("deny", ())):
            return False
        clauses = [clause for acl in lists for clause in acl.get("allow", ())]
        return any({clause} <= held if isinstance(clause, str) else set(clause) <= held for clause in clauses)

    def readable(self, reader: str) -> set[str]:
        """Return the ids of everything that a reader may read."""
        return {note.id for note in self.notes.values() if self.may_read(reader, note)}

    def _lists(self, note: Note) -> Iterator[Acl]:
        assert note.acl is not None
        yield note.acl
        path = note.container if note.acl.get("inherit") else None
        while path is not None:
            folder = self.folders.get((note.source, path), Folder())
            if folder.acl is not None:
                yield folder.acl
            if not folder.inherit or path == "/":
                return
            path = path.rpartition("/")[0] or "/"
