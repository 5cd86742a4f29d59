"""Relationship stores that others wrote, as access lists: who may read what is whoever their assertions say."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.conformance.openfga import Lists, relations_of
from tests.retrieval.world import World
from tests.retrieval.writing import Index, doc

STORES = Path(__file__).parents[2].parent / "shared" / "data" / "openfga-stores"
# Its tuples bring the context of their own conditions along.
DECIDED_WITHIN = "condition-data-types"
pytestmark = pytest.mark.skipif(not STORES.is_dir(), reason="../shared/data/openfga-stores is not on this machine")


def read(path):
    """The relations, the tuples and the tests of one store."""
    store = yaml.safe_load(path.read_text())
    model = store.get("model") or (path.parent / store["model_file"]).read_text()
    return relations_of(model), store.get("tuples") or [], store["tests"]


def claims_of(test, *, is_tied):
    """`(kind, subject, object or type, relation, wanted)` of one test, in its three forms.

    A string instead names what cannot be asked of us: a condition, or which groups have a relation.
    """
    asked = [(kind, each) for kind in ("check", "list_objects", "list_users") for each in test.get(kind, ())]
    for kind, each in asked:
        for relation, wanted in each["assertions"].items():
            if "context" in each or is_tied:
                yield "a condition"
            elif kind == "check":
                yield kind, each["user"], each["object"], relation, wanted
            elif kind == "list_objects":
                yield kind, each["user"], each["type"], relation, frozenset(wanted)
            elif "relation" in each["user_filter"][0]:
                yield "a list of groups"
            else:
                yield kind, each["user_filter"][0]["type"], each["object"], relation, frozenset(wanted["users"])


class Told:
    """One store in one organization: its subjects as people, its usersets as groups, its objects as documents."""

    def __init__(self, world, lists, tuples, claims):
        self.world, self.index, self.lists = world, Index(world), lists
        said = {name for each in tuples for name in (each["user"], each["object"])} | {each[1] for each in claims}
        said |= {each[2] for each in claims}
        self.things = sorted({name.partition("#")[0] for name in said if name and ":" in name and "*" not in name})
        self.seen = {}

    async def write(self, claims):
        """Write a document for every object and relation that a claim asks about."""
        asked = set()
        for kind, _, thing, relation, _ in claims:
            asked |= {(each, relation) for each in self.meant(kind, thing)}
        readable = {each: self.lists.clauses(*each) for each in sorted(asked)}
        for thing in self.things:
            await self.world.user(short(thing))
        for group in self.lists.members:
            await self.world.group(short(group))
        for group, members in self.lists.members.items():
            for each in sorted(members):
                await self.world.join(short(group), short(each), "group" if "#" in each else "user")
        source = await self.index.source()
        documents = [
            doc(f"{thing}#{relation}", "walnut", {"allow": [self.clause(each) for each in said], "deny": []})
            for (thing, relation), said in readable.items()
        ]  # fmt: skip
        for first in range(0, len(documents), 100):
            await self.index.push(source, *documents[first : first + 100])

    def meant(self, kind, thing):
        """The objects of a claim: all of a type where objects are listed."""
        return [each for each in self.things if each.startswith(f"{thing}:")] if kind == "list_objects" else [thing]

    def clause(self, names):
        return [each if each == "everyone" else self.world.name(short(each)) for each in names]

    async def sees(self, subject):
        if subject not in self.seen:
            self.seen[subject] = set(await self.index.found(short(subject), "walnut", k=100))
        return self.seen[subject]

    async def verdict(self, kind, subject, thing, relation, wanted):
        """None where a claim holds, else what is wrong."""
        if kind == "check":
            found = f"{thing}#{relation}" in await self.sees(subject)
        elif kind == "list_objects":
            seen = await self.sees(subject)
            found = frozenset(each for each in self.meant(kind, thing) if f"{each}#{relation}" in seen)
        else:
            people = [each for each in self.things if each.startswith(f"{subject}:")]
            found = frozenset([each for each in people if f"{thing}#{relation}" in await self.sees(each)])
        return None if found == wanted else (kind, subject, thing, relation, wanted, found)


def short(name):
    """A name of the world: groups begin with `g-`."""
    bare = name.replace(":", "|")
    return f"g-{bare}" if "#" in name else bare


async def test_who_may_is_whoever_the_stores_of_others_say(store):
    held, wrong, unsaid, absent = 0, [], Counter(), []
    for path in sorted(STORES.rglob("*.fga.yaml")):
        try:
            relations, tuples, tests = read(path)
        except FileNotFoundError:
            absent.append(path.stem)
            continue
        for group in [[each for each in tests if "tuples" not in each], *([t] for t in tests if "tuples" in t)]:
            told_of = [claim for test in group
                       for claim in claims_of(test, is_tied=path.parent.name == DECIDED_WITHIN)]  # fmt: skip
            unsaid.update(each for each in told_of if isinstance(each, str))
            claims = [each for each in told_of if not isinstance(each, str)]
            if not claims:
                continue
            all_tuples = [*tuples, *(each for test in group for each in test.get("tuples", ()))]
            told = Told(await World.make(store), Lists(relations, all_tuples), all_tuples, claims)
            await told.write(claims)
            for claim in claims:
                verdict = await told.verdict(*claim)
                held += verdict is None
                if verdict is not None:
                    wrong.append((path.parent.name, verdict))
    assert wrong == []
    # What is left is named: the models in modules refer to files that are not there.
    assert (held, unsaid) == (247, {"a condition": 66, "a list of groups": 1})
    assert absent == ["core.fga", "issue-tracker.fga", "store.fga", "wiki.fga"]
