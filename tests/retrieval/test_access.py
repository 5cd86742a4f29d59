"""Access lists against a brute force that shares no line with them, through changes, moves and a real store."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from interlock.contracts.documents import AccessList
from interlock.retrieval.domain.access import Folder, acl_digest, canonical, effective, ruling, set_digest
from interlock.retrieval.domain.paths import ancestors, normal, parent_of
from tests.retrieval.world import World
from tests.retrieval.writing import Index, doc, lists
from tests.support.store import PATIENT, opened

PEOPLE = ("ann", "bob", "eve")
GROUPS = ("g-a", "g-b", "g-c")
EVERYBODY = (*PEOPLE, *GROUPS, "everyone")
FOLDERS = ("/a", "/a/b", "/a/b/c", "/d")

NAME = st.sampled_from(EVERYBODY)
CLAUSES = st.lists(st.lists(NAME, min_size=1, max_size=3).map(tuple), max_size=3)
LIST = st.tuples(CLAUSES, st.lists(NAME, max_size=2), st.booleans())


# --- the brute force: at most thirty lines, by the words of the page -----------------------------------------------
@dataclass
class Brute:
    members: set = field(default_factory=set)
    documents: dict = field(default_factory=dict)
    folders: dict = field(default_factory=dict)

    def put(self, document, folder, acl):
        # A push that names no folder leaves the document where it lies.
        lies, _ = self.documents.get(document, ("", None))
        self.documents[document] = (folder or lies, acl)

    def is_in(self, person, group, seen=()):
        if group in seen:
            return False
        return any(
            inside == person or (inside in GROUPS and self.is_in(person, inside, (*seen, group)))
            for holder, inside in self.members
            if holder == group
        )

    def is_one(self, person, name):
        return name in ("everyone", person) or (name in GROUPS and self.is_in(person, name))

    def may(self, person, document):
        folder, acl = self.documents[document]
        said = [acl]
        while said[-1][2] and folder:
            said.append(self.folders.get(folder, ((), (), True)))
            folder = folder.rpartition("/")[0]
        if any(self.is_one(person, name) for _, deny, _ in said for name in deny):
            return False
        return any(all(self.is_one(person, name) for name in clause) for allow, _, _ in said for clause in allow)


# --------------------------------------------------------------------------------------------------------------------


STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 3), st.sampled_from([None, *FOLDERS]), LIST),
    st.tuples(st.just("acl"), st.integers(0, 3), LIST),
    st.tuples(st.just("folder"), st.sampled_from(FOLDERS), LIST),
    st.tuples(st.just("join"), st.sampled_from(GROUPS), st.sampled_from((*PEOPLE, *GROUPS))),
    st.tuples(st.just("leave"), st.sampled_from(GROUPS), st.sampled_from((*PEOPLE, *GROUPS))),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(("/a", "/d", "/e", "/a/b", "/d/f"))),
    st.tuples(st.just("delete"), st.integers(0, 3)),
)


# A push without a folder, then what the folder says: the document lies there still.
STAYING = [
    ("put", 0, None, ((), (), False)),
    ("folder", "/a", ((), ("ann",), False)),
    ("acl", 0, ((("everyone",),), (), True)),
]


# Every world begins with a document in each folder, so that what folders say counts for something.
OPEN = st.sampled_from([((("everyone",),), (), True), ((), (), True), ((("g-a",), ("bob", "g-b")), (), True)])
START = st.tuples(*(st.tuples(st.just("put"), st.just(n), st.just(at), OPEN) for n, at in enumerate(FOLDERS)))


# A world is told whole when it fails; to make it smaller takes minutes, more than a test has.
WHOLE = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=25, phases=WHOLE, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=START, steps=st.lists(STEP, min_size=6, max_size=16))
@example(start=[("put", n, at, ((("everyone",),), (), True)) for n, at in enumerate(FOLDERS)], steps=STAYING)
def test_whoever_finds_a_document_is_whoever_the_brute_force_says(start, steps, store_urls):
    """Nesting, cycles, deny, all-of, breaks and moves; through HTTP, the index and its second path."""
    asyncio.run(walk([*start, *steps], store_urls))


async def walk(steps, store_urls):
    async with opened(store_urls, config=PATIENT) as store:
        world = await World.make(store)
        for name in PEOPLE:
            await world.user(name)
        for name in GROUPS:
            await world.group(name)
        index, brute, ids = Index(world), Brute(), {}
        source = await index.source()
        for step in steps:
            await act(index, world, brute, (source, ids), step)
        for person in PEOPLE:
            wanted = sorted(f"d{number}" for number in brute.documents if brute.may(person, number))
            found, read = await index.found(person, "walnut"), await readable(index, person, ids)
            assert (found, read) == (wanted, wanted), await disagreement(index, person, (found, read, wanted), steps)
        told, real = await index.counts()
        assert told == real


async def readable(index, person, ids):
    """What the second path lets somebody read, by its id."""
    paths = {f"d{number}": f"/v1/retrieval/documents/{identity}" for number, identity in sorted(ids.items())}
    return [name for name, path in paths.items() if (await index.call("GET", path, who=person)).status == 200]


ROWS = """
SELECT d.external_id, d.state, d.acl_id, f.path, d.own_acl::text AS own, s.canonical::text AS counts, n.live_chunks,
  (SELECT array_agg(DISTINCT p.acl_id) FROM retrieval_chunks k
   JOIN retrieval_postings p ON p.organization_id = $1 AND p.chunk_id = k.chunk_id
   WHERE k.organization_id = $1 AND k.document_id = d.id) AS posted
FROM retrieval_documents d
LEFT JOIN retrieval_containers f ON f.organization_id = $1 AND f.source_id = d.source_id AND f.id = d.container_id
LEFT JOIN retrieval_acl_bindings b ON b.organization_id = $1 AND b.acl_id = d.acl_id AND b.to_epoch IS NULL
LEFT JOIN retrieval_acl_sets s ON s.organization_id = $1 AND s.set_id = b.set_id
LEFT JOIN retrieval_acl_counts n ON n.organization_id = $1 AND n.acl_id = d.acl_id
WHERE d.organization_id = $1 ORDER BY 1
"""
LAST = "SELECT plan, epoch, acl_ids, candidates::text, dropped::text FROM retrieval_searches WHERE organization_id = $1"


async def disagreement(index, person, three, steps):
    """Which of the three is alone, and every row that the first path went by."""
    found, read, wanted = three
    last = (await index.sql(f"{LAST} ORDER BY created_at DESC LIMIT 1"))[0]
    lines = [f"{person} finds {found}, reads {read}, by the brute force {wanted}", *map(str, steps)]
    return "\n".join([*lines, f"searched {last}", *map(str, await index.sql(ROWS))])


async def act(index, world, brute, made, step):
    (source, ids), kind = made, step[0]
    if kind == "put":
        _, number, folder, acl = step
        item = doc(f"d{number}", f"walnut {number}", body(world, acl), container=folder)
        (result,) = await index.push(source, item)
        ids[number] = result["id"]
        brute.put(number, folder, acl)
    elif kind == "acl" and step[1] in brute.documents:
        _, number, acl = step
        changed = await index.call("PUT", f"/v1/retrieval/documents/{ids[number]}/acl", body(world, acl))
        assert changed.status == 200, changed.json
        brute.documents[number] = (brute.documents[number][0], acl)
    elif kind == "folder":
        _, folder, acl = step
        given_acl = body(world, (acl[0], acl[1], False))
        path = f"/v1/retrieval/sources/{source}/containers{folder}"
        changed = await index.call("PUT", path, {"acl": given_acl, "inherit": acl[2]})
        assert changed.status == 200, changed.json
        for each in ancestors(folder)[1:]:
            brute.folders.setdefault(each, ((), (), True))
        brute.folders[folder] = acl
    elif kind in {"join", "leave"}:
        _, group, member = step
        edge = (group, member)
        if kind == "join" and edge not in brute.members:
            await world.join(group, member, "group" if member in GROUPS else "user")
            brute.members.add(edge)
        elif kind == "leave" and edge in brute.members:
            await world.leave(group, member)
            brute.members.discard(edge)
    elif kind == "move":
        await move(index, brute, source, step)
    elif kind == "delete" and step[1] in brute.documents:
        gone = await index.call("DELETE", f"/v1/retrieval/documents/{ids[step[1]]}")
        assert gone.status == 200
        del brute.documents[step[1]]


async def move(index, brute, source, step):
    _, old, new = step
    answer = await index.call("POST", f"/v1/retrieval/sources/{source}/containers:move", {"from": old, "to": new})
    if answer.status != 200:
        assert answer.code == "invalid_request"
        return

    def moved(path):
        return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path

    brute.folders = {moved(path): acl for path, acl in brute.folders.items()}
    brute.documents = {number: (moved(folder), acl) for number, (folder, acl) in brute.documents.items()}


def body(world, acl):
    return lists(world, *acl[0], deny=acl[1], inherit=acl[2])


@given(acl=LIST)
def test_equal_lists_have_one_spelling_and_one_digest(acl):
    allow, deny, inherit = acl
    one = AccessList(tuple(allow), tuple(deny), inherit)
    other = AccessList(tuple(tuple(reversed(each)) * 2 for each in reversed(allow)), tuple(deny) * 2, inherit)
    assert canonical(one) == canonical(other) == canonical(canonical(one))
    assert set_digest(one) == set_digest(other)
    assert acl_digest(one) == acl_digest(other)
    assert (acl_digest(one) == acl_digest(AccessList(one.allow, one.deny, not inherit))) is False


@given(acl=LIST, closure=st.sets(NAME))
def test_a_deny_wins_and_an_unreadable_folder_lets_nobody_in(acl, closure):
    one = AccessList(tuple(acl[0]), tuple(acl[1]))
    found = ruling(one, closure)
    if closure & set(acl[1]):
        assert not found.is_allowed
    if found.is_allowed:
        assert set(found.clause) <= closure
    through = effective(one, [Folder(None), Folder(None, is_unreadable=True)])
    assert not ruling(through, {*EVERYBODY}).is_allowed


@given(parts=st.lists(st.text("abc.", min_size=1, max_size=3).filter(lambda part: part not in {".", ".."}), max_size=5))
def test_a_path_is_its_ancestors(parts):
    path = normal("/" + "/".join(parts) + "/")
    chain = ancestors(path)
    assert chain[0] == "/"
    assert chain[-1] == path
    assert [parent_of(each) for each in chain] == [None, *chain[:-1]]


async def test_four_writers_of_one_organization_end_without_a_deadlock(store_urls):
    """The same words, the same lists, the same documents, in four orders."""
    async with opened(store_urls, connections_max=10, config=PATIENT) as store:
        world = await World.make(store)
        for name in PEOPLE:
            await world.user(name)
        index = Index(world)
        source = await index.source()

        async def writer(number):
            for turn in range(8):
                items = [
                    doc(f"d{(number * 3 + turn + k) % 7}", f"walnut {number} {turn} {' '.join(words(k))}",
                        lists(world, PEOPLE[(k + turn) % 3], inherit=bool(k % 2)), container=f"/f{(k + number) % 4}")
                    for k in range(6)
                ]  # fmt: skip
                await index.push(source, *{item["external_id"]: item for item in reversed(items)}.values())
                path = f"/v1/retrieval/sources/{source}/containers/f{turn % 4}"
                changed = await index.call("PUT", path, {"acl": lists(world, PEOPLE[number % 3])})
                assert changed.status == 200, changed.json

        await asyncio.gather(*(writer(number) for number in range(4)))
        # A deadlock is rolled back and tried again, so that only the count of roll-backs tells.
        assert store.statistics().outcomes["rolled_back"] == 0
        told, real = await index.counts()
        assert told == real


def words(seed):
    return [f"word{(seed * 31 + number * 17) % 200}" for number in range(40)]
