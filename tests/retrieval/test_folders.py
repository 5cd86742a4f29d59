"""Folder sources: listed under a lease, OWNERS files as access, breaks, filters, escapes, and what goes missing."""

import os
import re
from pathlib import Path

import pytest
import yaml

from interlock.retrieval.config import RetrievalConfig
from tests.retrieval.writing import Index, doc, lists

OWNERS_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "k8s-owners"


@pytest.fixture
async def index(world, tmp_path):
    for name in ("ann", "bob"):
        await world.user(name)
    return Index(world, roots=[tmp_path], config=RetrievalConfig(sync_batch_documents=3))


def put(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


async def folder(index, root, name="wiki", **config):
    return await index.source(name, kind="folder", config={"path": str(root), **config})


async def listed(index, source, **body):
    """One listing, done by a worker of this test."""
    asked = await index.call("POST", f"/v1/retrieval/sources/{source}/sync", body)
    assert asked.status in {200, 202}, asked.json
    await index.drained(index.syncing(poll_s=0.02), "retrieval_sync_runs")
    return (await index.call("GET", f"/v1/retrieval/sources/{source}")).json["last_sync"]


async def test_readers_come_from_owners_files_breaks_and_filters_included(index, tmp_path):
    put(tmp_path, "OWNERS", "approvers: [root-a]\nreviewers: [leads]\n")
    put(tmp_path, "OWNERS_ALIASES", "aliases:\n  leads: [lena, Lou]\n")
    put(tmp_path, "top.md", "walnut at the top")
    put(tmp_path, "sub/OWNERS", 'filters:\n  ".*": {approvers: [sub-a]}\n  "plan.md$": {reviewers: [planner]}\n')
    put(tmp_path, "sub/plan.md", "walnut in the plan")
    put(tmp_path, "sub/deep/note.md", "walnut deep below")
    put(tmp_path, "closed/OWNERS", "options: {no_parent_owners: true}\napprovers: [closed-a]\n")
    put(tmp_path, "closed/secret.md", "walnut behind a break")
    put(tmp_path, "closed/ignored.txt", "walnut of another kind")
    source = await folder(index, tmp_path)
    run = await listed(index, source)
    assert (run["state"], run["added"], run["errors"]) == ("done", 4, [])
    seen = {}
    for name in ("root-a", "lena", "lou", "sub-a", "planner", "closed-a", "nobody"):
        uris = await index.as_outsider(f"ext:{source}:user:{name}", "walnut")
        seen[name] = {uri.partition(source + "/")[2] for uri in uris}
    everything_above = {"top.md", "sub/plan.md", "sub/deep/note.md"}
    assert seen == {
        "root-a": everything_above, "lena": everything_above, "lou": everything_above,
        "sub-a": {"sub/plan.md", "sub/deep/note.md"}, "planner": {"sub/plan.md"}, "closed-a": {"closed/secret.md"},
        "nobody": set(),
    }  # fmt: skip


async def test_equal_group_names_of_two_sources_never_meet(index, world, tmp_path):
    sources = []
    for name in ("one", "two"):
        put(tmp_path, f"{name}/OWNERS", "approvers: [staff]\n")
        put(tmp_path, f"{name}/OWNERS_ALIASES", "aliases: {staff: [sam]}\n")
        put(tmp_path, f"{name}/page.md", f"walnut {name}")
        sources.append(await folder(index, tmp_path / name, name))
        await listed(index, sources[-1])
    assert await index.found("ann", "walnut") == []
    ann = f"user:ann@{world.organization_id.hex}.example"
    body = {"identities": [{"external": "user:sam", "principal": ann}, {"external": "user:x", "principal": "user:no"}]}
    mapped = await index.call("PUT", f"/v1/retrieval/sources/{sources[0]}/identities", body)
    assert (mapped.json["mapped"], mapped.json["rejected"]) == (
        1, [{"external": "user:x", "code": "principal_not_found"}],
    )  # fmt: skip
    answer = await index.call("POST", "/v1/retrieval/search", {"query": "walnut"}, who="ann")
    assert [hit["source_id"] for hit in answer.json["hits"]] == [sources[0]]


async def test_a_malformed_owners_file_quarantines_its_folder_and_mends(index, tmp_path):
    put(tmp_path, "OWNERS", "approvers: [root-a]\n")
    put(tmp_path, "good.md", "walnut good")
    put(tmp_path, "bad/page.md", "walnut bad")
    source = await folder(index, tmp_path)
    await listed(index, source)
    reader = f"ext:{source}:user:root-a"
    assert len(await index.as_outsider(reader, "walnut")) == 2
    put(tmp_path, "bad/OWNERS", "approvers: root-a: [\n")
    run = await listed(index, source)
    assert (run["state"], run["quarantined"]) == ("done", 1)
    assert run["errors"] == [{"external_id": "bad/OWNERS", "code": "acl_unreadable"}]
    assert [uri[-7:] for uri in await index.as_outsider(reader, "walnut")] == ["good.md"]
    told = (await index.call("GET", f"/v1/retrieval/sources/{source}")).json
    assert told["documents"] == {"live": 1, "quarantined": 1, "deleted": 0, "held": 0}
    put(tmp_path, "bad/OWNERS", "approvers: []\n")
    await listed(index, source)
    assert len(await index.as_outsider(reader, "walnut")) == 2


async def test_nothing_outside_of_the_folder_is_read(index, tmp_path):
    outside = tmp_path / "outside"
    put(outside, "secret.md", "walnut outside")
    root = tmp_path / "root"
    put(root, "OWNERS", "approvers: [ann]\n")
    put(root, "in.md", "walnut inside")
    (root / "link.md").symlink_to(outside / "secret.md")
    (root / "linked").symlink_to(outside, target_is_directory=True)
    os.mkfifo(root / "pipe.md")
    source = await folder(index, root)
    run = await listed(index, source)
    assert (run["added"], run["skipped"]) == (1, 3)
    assert {each["code"] for each in run["errors"]} == {"path_escape"}
    assert len(await index.as_outsider(f"ext:{source}:user:ann", "walnut")) == 1


@pytest.mark.parametrize("path", ["/etc", "{root}/../..", "{root}/way-out", "relative"])
async def test_a_root_outside_of_the_allowed_ones_is_refused(index, tmp_path, path):
    (tmp_path / "way-out").symlink_to("/etc", target_is_directory=True)
    body = {"name": "x", "kind": "folder", "config": {"path": path.format(root=tmp_path)}}
    refused = await index.call("POST", "/v1/retrieval/sources", body)
    assert (refused.status, refused.code) == (403, "path_not_allowed")


async def test_what_is_missing_is_withdrawn_and_too_much_at_once_waits_for_a_person(index, tmp_path):
    put(tmp_path, "OWNERS", "approvers: [ann]\n")
    for number in range(30):
        put(tmp_path, f"page-{number}.md", f"walnut {number}")
    source = await folder(index, tmp_path)
    await listed(index, source)
    for number in range(3):
        (tmp_path / f"page-{number}.md").unlink()
    run = await listed(index, source)
    assert (run["deleted"], run["added"], run["changed"]) == (3, 0, 0)
    for number in range(3, 25):
        (tmp_path / f"page-{number}.md").unlink()
    run = await listed(index, source)
    assert (run["state"], run["errors"][-1]["code"]) == ("failed", "too_many_missing")
    told = (await index.call("GET", f"/v1/retrieval/sources/{source}")).json
    assert (told["state"], told["state_reason"], told["documents"]["live"]) == ("paused", "too_many_missing", 27)
    await index.call("PATCH", f"/v1/retrieval/sources/{source}", {"state": "idle"})
    run = await listed(index, source, full=True)
    assert (run["state"], run["deleted"]) == ("done", 22)
    told, real = await index.counts()
    assert told == real


async def test_a_second_listing_of_the_same_writes_nothing(index, tmp_path):
    put(tmp_path, "OWNERS", "approvers: [ann]\n")
    put(tmp_path, "a/b/page.md", "walnut")
    source = await folder(index, tmp_path)
    await listed(index, source)
    state = "SELECT epoch FROM identity_authz_epochs WHERE organization_id = $1"
    rows = "SELECT xmin::text, ctid::text FROM retrieval_documents WHERE organization_id = $1"
    before = await index.sql(state), await index.sql(rows)
    run = await listed(index, source)
    assert [run[name] for name in ("added", "changed", "acl_changed", "deleted")] == [0, 0, 0, 0]
    assert (await index.sql(state), await index.sql(rows)) == before


async def test_unconfirmed_acl_goes_dark(index, world, tmp_path):
    put(tmp_path, "OWNERS", "approvers: [ann]\n")
    put(tmp_path, "page.md", "walnut")
    source = await folder(index, tmp_path)
    await listed(index, source)
    reader = f"ext:{source}:user:ann"
    assert len(await index.as_outsider(reader, "walnut")) == 1
    await world.sql(
        "UPDATE retrieval_sources SET acl_confirmed_at = now() - interval '2 hours' WHERE organization_id = $1",
        world.organization_id,
    )
    assert await index.as_outsider(reader, "walnut") == []
    assert (await index.call("GET", f"/v1/retrieval/sources/{source}")).json["acl_confirmed_share"] == 0.0
    await listed(index, source)
    assert len(await index.as_outsider(reader, "walnut")) == 1


async def test_access_lists_count_as_of_when_a_listing_began_to_read_them(index, tmp_path):
    """A list that was changed while the listing ran is as old as its reading, not as the end of the listing."""
    put(tmp_path, "OWNERS", "approvers: [ann]\n")
    put(tmp_path, "page.md", "walnut")
    await listed(index, await folder(index, tmp_path))
    (row,) = await index.sql(
        "SELECT s.acl_confirmed_at <= to_timestamp(r.started_us / 1e6) AS is_of_its_beginning FROM retrieval_sources s"
        " JOIN retrieval_sync_runs r ON r.organization_id = s.organization_id AND r.source_id = s.id"
        " WHERE s.organization_id = $1"
    )
    assert row["is_of_its_beginning"]


async def test_dark_hides_a_source_at_once_and_light_shows_it_again(index, world):
    source = await index.source()
    await index.push(source, doc("a", "walnut", lists(world, "ann")))
    dark = await index.call("PATCH", f"/v1/retrieval/sources/{source}", {"state": "dark"})
    assert (dark.status, dark.json["state"]) == (200, "dark")
    token = dark.headers["x-interlock-consistency-token"]
    assert await index.found("ann", "walnut", at_least_as_fresh=token) == []
    await index.call("PATCH", f"/v1/retrieval/sources/{source}", {"state": "idle"})
    assert await index.found("ann", "walnut") == ["a"]


def walk(root, include=re.compile(r"\.md$")):
    """The independent oracle: path -> readers, by its own reading of the rules, straight from the files."""
    aliases = yaml.safe_load((root / "OWNERS_ALIASES").read_text())["aliases"]
    members = {name.lower(): {each.lower() for each in names or []} for name, names in aliases.items()}

    def people(names):
        found = set()
        for name in names or []:
            found |= members.get(name.lower(), {name.lower()})
        return found

    readers = {}
    for at, _, names in os.walk(root):
        for name in names:
            path = (Path(at) / name).relative_to(root)
            if not include.search(name):
                continue
            found, folder = set(), path.parent
            while True:
                file = root / folder / "OWNERS"
                if file.is_file():
                    content = yaml.safe_load(file.read_text()) or {}
                    found |= people(content.get("approvers")) | people(content.get("reviewers"))
                    below = str(path.relative_to(folder))
                    for pattern, entry in (content.get("filters") or {}).items():
                        if re.search(pattern, below):
                            found |= people(entry.get("approvers")) | people(entry.get("reviewers"))
                    if (content.get("options") or {}).get("no_parent_owners"):
                        break
                if folder == Path():
                    break
                folder = folder.parent
            readers[str(path)] = found
    return readers


@pytest.mark.skipif(not OWNERS_DATA.is_dir(), reason="../shared/data/k8s-owners is not on this machine")
async def test_a_large_community_s_folders_give_each_reader_the_files_of_an_independent_walk(world):
    index = Index(world, roots=[OWNERS_DATA])
    source = await folder(index, OWNERS_DATA, include=["**/*.md"])
    run = await listed(index, source)
    wanted = walk(OWNERS_DATA)
    assert (run["state"], run["added"] + run["skipped"]) == ("done", len(wanted)), run
    given = await index.sql(
        "SELECT d.external_id, s.canonical::text AS canonical FROM retrieval_documents d JOIN retrieval_acl_bindings b"
        " ON b.organization_id = $1 AND b.acl_id = d.acl_id AND b.to_epoch IS NULL JOIN retrieval_acl_sets s"
        " ON s.organization_id = $1 AND s.set_id = b.set_id WHERE d.organization_id = $1"
    )
    prefix = f"ext:{source}:user:"
    got = {
        row["external_id"]: {
            name.removeprefix(prefix) for name in yaml.safe_load(row["canonical"])["allow"] if name.startswith(prefix)
        }
        for row in given
    }
    assert got == wanted
