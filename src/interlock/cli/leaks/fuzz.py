"""The random walk: one change of the world a step, then readers look through every surface that shows something.

Counts what was shown and should not have been, and what should have been found and was not: both are faults of access.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from interlock.cli.leaks.oracle import Folder, Note, Oracle
from interlock.foundation.sim import SimDice

COMMON: Final = "kappaword"
NOTES_MAX: Final = 80
# A machine that is busy is no leak.
_BUSY: Final = frozenset({429, 503, 504})
_TRIES: Final = 5
_GROUPS, _USERS, _ACCOUNTS = 5, 4, 3
_PATHS: Final = ("/", "/a", "/a/b", "/a/b/c", "/d")
_LETTERS: Final = "bcdfghjklmnpqrtvwxz"


@dataclass(frozen=True, slots=True)
class Told:
    """What the platform answered."""

    status: int
    content: bytes
    body: Any


class Caller(Protocol):
    """One call of the public API; `key` None is the owner's."""

    def __call__(self, key: str | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> Told:
        """Call."""
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who reads: with a key of its own, or named by the owner's key."""

    name: str
    key: str | None


@dataclass(slots=True)
class Findings:
    """What was found; `leaks` are sentences for a person."""

    leaks: list[str] = field(default_factory=list)
    steps: int = 0
    looked: Counter[str] = field(default_factory=Counter)


class Fuzz:
    """One world, from its seed."""

    def __init__(self, call: Caller, seed: int) -> None:
        self._call = call
        self._dice = SimDice(seed)
        self._number = 0
        self.oracle = Oracle()
        self.found = Findings()
        self._groups: list[str] = []
        self._readers: list[Reader] = []
        self._sources: list[str] = []
        self._defaults: dict[str, Any] = {}

    def make_world(self) -> None:
        """Create people, groups and sources."""
        where = self._must("GET", "/admin/v1/workspaces")["data"]
        workspace = next(each["id"] for each in where if each["name"] == "default")
        for number in range(_GROUPS):
            self._groups.append(f"group:{self._must('POST', '/admin/v1/groups', {'name': f'g{number}'})['id']}")
        for number in range(_USERS):
            user = {"email": f"u{number}@leak.example", "name": f"u{number}"}
            self._readers.append(Reader(f"user:{self._must('POST', '/admin/v1/users', user)['id']}", None))
        for number in range(_ACCOUNTS):
            account = {"name": f"a{number}", "workspace_id": workspace}
            made = self._must("POST", "/admin/v1/service-accounts", account)
            role = {"principal": f"sa:{made['id']}", "role": "viewer", "workspace_id": None}
            self._must("POST", "/admin/v1/memberships", role)
            key = {"workspace_id": workspace, "name": f"a{number}", "service_account": made["id"]}
            self._must_key(key, made["id"])
        for name, default in (("plain", None), ("open", {"allow": ["everyone"]})):
            body = {"name": name, "kind": "push", "default_acl": default}
            source = self._must("POST", "/v1/retrieval/sources", body)["id"]
            self._sources.append(source)
            self._defaults[source] = default

    def run(self, steps: int, on_step: Callable[[int], None] = lambda _: None) -> Findings:
        """Walk. A refusal that the walk does not expect is a finding too."""
        while self.found.steps < steps:
            self.found.steps += 1
            self._change()
            for _ in range(2):
                self._look(self._dice.pick(*self._readers))
            on_step(self.found.steps)
        return self.found

    def canaries(self) -> list[str]:
        """Return every canary that was ever written."""
        return [note.canary for note in self.oracle.notes.values()]

    def _change(self) -> None:
        kinds = (
            (self._push, 30), (self._member, 25), (self._list, 15), (self._folder, 10), (self._rewrite, 8),
            (self._delete, 6), (self._darken, 3), (self._move, 3),
        )  # fmt: skip
        at = self._dice.randrange(100)
        for change, weight in kinds:
            if at < weight:
                change()
                return
            at -= weight

    def _push(self) -> None:
        if len([each for each in self.oracle.notes.values() if not each.is_deleted]) >= NOTES_MAX:
            self._delete()
            return
        self._number += 1
        source = self._dice.pick(*self._sources)
        container = self._dice.pick(None, *_PATHS)
        canary = self._word()
        item: dict[str, Any] = {
            "external_id": f"n{self._number}", "title": f"Note {canary}", "container": container,
            "text": f"The {COMMON} note {self._number} says {canary}. It is the {COMMON} of {canary} alone.",
        }  # fmt: skip
        acl = self._acl(container) if self._dice.chance(0.85) else None
        if acl is not None:
            item["acl"] = acl
        result = self._pushed(source, item)
        if result is None:
            return
        wanted = "created" if acl is not None or self._defaults[source] is not None else "quarantined"
        if result["status"] != wanted:
            self._leak(f"a push answered {result['status']} and not {wanted}")
        counts = acl if acl is not None else self._defaults[source]
        note = Note(result["id"], item["external_id"], source, container, counts, canary)
        self.oracle.notes[note.id] = note

    def _rewrite(self) -> None:
        """A content update without a list, which must leave the list."""
        note = self._live()
        if note is None:
            return
        text = f"The {COMMON} note, again, says {note.canary}. Version {self._dice.randrange(1000)}."
        item = {
            "external_id": note.external_id, "title": f"Note {note.canary}", "text": text, "container": note.container,
        }  # fmt: skip
        self._pushed(note.source, item)

    def _pushed(self, source: str, item: Mapping[str, Any]) -> Any:
        bare = {name: value for name, value in item.items() if value is not None}
        answer = self._expect((200,), "POST", "/v1/retrieval/documents", {"source": source, "documents": [bare]})
        return None if answer is None else answer["results"][0]

    def _list(self) -> None:
        note = self._live()
        if note is not None:
            acl = self._acl(note.container)
            if self._expect((200,), "PUT", f"/v1/retrieval/documents/{note.id}/acl", acl) is not None:
                note.acl = acl

    def _delete(self) -> None:
        note = self._live()
        if note is not None and self._expect((200,), "DELETE", f"/v1/retrieval/documents/{note.id}") is not None:
            note.is_deleted = True

    def _member(self) -> None:
        group = self._dice.pick(*self._groups)
        member = self._dice.pick(*self._groups, *(each.name for each in self._readers))
        edge, path = (member, group), f"/admin/v1/groups/{group.partition(':')[2]}/members/{member}"
        if edge in self.oracle.edges:
            if self._expect((200,), "DELETE", path) is not None:
                self.oracle.edges.discard(edge)
        elif self._expect((200,), "PUT", path) is not None:
            self.oracle.edges.add(edge)

    def _folder(self) -> None:
        source, path = self._dice.pick(*self._sources), self._dice.pick(*_PATHS[1:])
        folder = Folder(self._dice.pick(None, self._acl(None)), self._dice.chance(0.7))
        body = {"acl": None if folder.acl is None else dict(folder.acl), "inherit": folder.inherit}
        url = f"/v1/retrieval/sources/{source}/containers{path}"
        if self._expect((200,), "PUT", url, body) is not None:
            self.oracle.folders[source, path] = folder

    def _move(self) -> None:
        """A folder moves to a new name and back, which in the end changes nothing; between, the oracle follows."""
        source = self._dice.pick(*self._sources)
        moved = {at: folder for at, folder in self.oracle.folders.items() if at[0] == source and at[1].startswith("/a")}
        if not moved or not any(note.source == source and note.container for note in self.oracle.notes.values()):
            return
        url = f"/v1/retrieval/sources/{source}/containers:move"
        new = f"/moved{self._dice.randrange(10**6)}"
        if self._expect((200, 404), "POST", url, {"from": "/a", "to": new}) is None:
            return
        self._renamed(source, "/a", new)
        self._look(self._dice.pick(*self._readers))
        if self._expect((200,), "POST", url, {"from": new, "to": "/a"}) is not None:
            self._renamed(source, new, "/a")

    def _renamed(self, source: str, old: str, new: str) -> None:
        def moved(path: str) -> str:
            return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path

        self.oracle.folders = {
            (where, moved(path) if where == source else path): folder
            for (where, path), folder in self.oracle.folders.items()
        }
        for note in self.oracle.notes.values():
            if note.source == source and note.container is not None:
                note.container = moved(note.container)

    def _darken(self) -> None:
        source = self._dice.pick(*self._sources)
        state = "idle" if source in self.oracle.dark else "dark"
        if self._expect((200,), "PATCH", f"/v1/retrieval/sources/{source}", {"state": state}) is not None:
            self.oracle.dark ^= {source}

    def _look(self, reader: Reader) -> None:
        may = self.oracle.readable(reader.name)
        secret = [note.canary for note in self.oracle.notes.values() if note.id not in may]
        self._search(reader, may, secret)
        surface = self._dice.pick(self._answer, self._why, self._fetch, self._verify, self._hunt)
        surface(reader, may, secret)

    def _search(self, reader: Reader, may: set[str], secret: list[str]) -> None:
        mode = self._dice.pick("lexical", "lexical", "hybrid")
        body = {"query": COMMON, "k": 100, "mode": mode, "facets": True, "rerank": self._dice.pick("features", "none")}
        told = self._read(reader, "POST", "/v1/retrieval/search", body, secret)
        if told is None:
            return
        shown = {hit["document_id"] for hit in told.body["hits"]}
        self._same(f"search {mode} of {reader.name}", shown, may)
        counted = sum(each["count"] for each in told.body["facets"]["source"])
        if counted != len(shown):
            self._leak(f"facets of {reader.name} count {counted} documents and {len(shown)} are shown")
        if self._dice.chance(0.1):
            self._inspect(told.body["request_id"], may)

    def _hunt(self, reader: Reader, may: set[str], secret: list[str]) -> None:
        """Look for the very word of a document that may not be read."""
        if secret:
            body = {"query": self._dice.pick(*secret), "k": 100, "facets": True}
            told = self._read(reader, "POST", "/v1/retrieval/search", body, secret)
            if told is not None:
                self._subset(f"hunt of {reader.name}", {hit["document_id"] for hit in told.body["hits"]}, may)

    def _inspect(self, request_id: str, may: set[str]) -> None:
        """What support sees of a search: ids of what was eligible, and no text of anybody."""
        told = self._call(None, "GET", f"/v1/retrieval/explain?request_id={request_id}")
        self.found.looked["inspect"] += 1
        self._silent("the explanation of a search", told, self.canaries())
        if told.status != 200:
            self._leak(f"the explanation of a search answered {told.status}")
            return
        pages = self._call(None, "GET", f"{told.body['eligible_url']}&limit=200")
        self._same("the eligible documents of a search", set(pages.body["data"]), may)

    def _answer(self, reader: Reader, may: set[str], secret: list[str]) -> None:
        body = {"query": f"what does the {COMMON} note say?", "max_sentences": 20, "k": 50}
        told = self._read(reader, "POST", "/v1/retrieval/answers", body, secret)
        if told is not None:
            self._subset(f"answer to {reader.name}", {each["document_id"] for each in told.body["citations"]}, may)

    def _why(self, reader: Reader, may: set[str], _secret: list[str]) -> None:
        note = self._any()
        if note is None:
            return
        body = {"principal": reader.name, "document_id": note.id}
        told = self._call(None, "POST", "/v1/retrieval/explain", body)
        self.found.looked["why"] += 1
        self._silent("an explanation", told, self.canaries())
        if told.status != 200 or told.body["eligible"] is not (note.id in may):
            self._leak(f"the explanation for {reader.name} and {note.id} is wrong: {told.content[:200]!r}")

    def _fetch(self, reader: Reader, may: set[str], secret: list[str]) -> None:
        note = self._any()
        if note is None:
            return
        asked = f"?principal={reader.name}" if reader.key is None else ""
        told = self._call(reader.key, "GET", f"/v1/retrieval/documents/{note.id}{asked}")
        self.found.looked["document"] += 1
        self._silent(f"a document as {reader.name}", told, secret)
        if (told.status == 200) is not (note.id in may) or told.status not in {200, 404}:
            self._leak(f"document {note.id} as {reader.name} answered {told.status}")

    def _verify(self, reader: Reader, may: set[str], secret: list[str]) -> None:
        note = self._any()
        if note is None:
            return
        claim = {"document_id": note.id, "version": 1, "start": 0, "end": 3, "quote_sha256": "0" * 64}
        told = self._read(reader, "POST", "/v1/retrieval/citations:verify", {"citations": [claim]}, secret)
        if told is not None:
            reason = told.body["results"][0]["reason"]
            if (reason == "not_found") is (note.id in may):
                self._leak(f"a citation of {note.id} as {reader.name} is {reason}")

    def _read(self, reader: Reader, method: str, path: str, body: dict[str, Any], secret: list[str]) -> Told | None:
        named = body if reader.key is not None else {**body, "principal": reader.name}
        told = self._call(reader.key, method, path, named)
        for _ in range(_TRIES):
            if told.status not in _BUSY:
                break
            told = self._call(reader.key, method, path, named)
        self.found.looked[path.rpartition("/")[2]] += 1
        self._silent(f"{path} as {reader.name}", told, secret)
        if told.status != 200:
            self._leak(f"{path} as {reader.name} answered {told.status}: {told.content[:200]!r}")
            return None
        return told

    def _silent(self, what: str, told: Told, secret: list[str]) -> None:
        for canary in secret:
            if canary.encode() in told.content:
                self._leak(f"{what} says {canary}")

    def _same(self, what: str, shown: set[str], may: set[str]) -> None:
        self._subset(what, shown, may)
        if may - shown:
            self._leak(f"{what} lacks {sorted(may - shown)[:3]}")

    def _subset(self, what: str, shown: set[str], may: set[str]) -> None:
        if shown - may:
            self._leak(f"{what} shows {sorted(shown - may)[:3]}")

    def _leak(self, words: str) -> None:
        self.found.leaks.append(f"step {self.found.steps}: {words}")

    def _expect(self, statuses: tuple[int, ...], method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        told = self._call(None, method, path, body)
        if told.status not in statuses:
            self._leak(f"{method} {path} answered {told.status}: {told.content[:200]!r}")
        return told.body if told.status < 300 else None

    def _must(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        told = self._call(None, method, path, body)
        if told.status >= 300:
            raise RuntimeError(f"{method} {path} answered {told.status}: {told.content[:300]!r}")
        return told.body

    def _must_key(self, wanted: Mapping[str, Any], account: str) -> None:
        made = self._must("POST", "/admin/v1/keys", {**wanted, "scopes": ["retrieval:read"]})
        self._readers.append(Reader(f"sa:{account}", made["key"]))

    def _acl(self, container: str | None) -> dict[str, Any]:
        names = ["everyone", *self._groups, *self._groups, *(each.name for each in self._readers)]
        pick = self._dice.pick
        allow: list[Any] = [pick(*names) for _ in range(self._dice.randrange(3))]
        if self._dice.chance(0.3):
            allow.append(sorted({pick(*names), pick(*names)}))
        deny = [pick(*names[1:])] if self._dice.chance(0.3) else []
        return {"allow": allow, "deny": deny, "inherit": container is not None and self._dice.chance(0.5)}

    def _live(self) -> Note | None:
        live = [each for each in self.oracle.notes.values() if not each.is_deleted]
        return self._dice.pick(*live) if live else None

    def _any(self) -> Note | None:
        notes = list(self.oracle.notes.values())
        return self._dice.pick(*notes) if notes else None

    def _word(self) -> str:
        return "zq" + "".join(self._dice.pick(*_LETTERS) for _ in range(10))
