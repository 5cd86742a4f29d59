"""Groups hold people, programs and groups; whoever asks sees the same closure, cycles and history included."""

import asyncio
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import Authenticated, IdentityConfig, IdentityService
from interlock.foundation.identity.domain import tokens
from interlock.foundation.identity.domain.groups import closure
from interlock.foundation.identity.effective import effective
from interlock.foundation.ids import format_id
from interlock.foundation.scope import ALL_WORKSPACES, Role
from interlock.foundation.store import Query
from tests.foundation.identity.worlds import World, uuid_of
from tests.support.store import IDS, make_tenant, opened, scope_of

EDGES = Query("edges", "history", "SELECT * FROM identity_group_edges WHERE organization_id = $1 ORDER BY from_epoch")
NODES = st.integers(0, 7).map(lambda number: UUID(int=number))


def naive(member, groups_of):
    """Grow the set until it stays the same."""
    found = set(groups_of.get(member, ()))
    while True:
        more = found | {up for each in found for up in groups_of.get(each, ())}
        if more == found:
            return found - {member}
        found = more


@settings(max_examples=600)
@given(st.dictionaries(NODES, st.lists(NODES, max_size=4), max_size=8), NODES)
def test_the_closure_is_what_naive_growing_finds_and_each_way_really_leads_there(groups_of, member):
    found = closure(member, groups_of)
    assert set(found) == naive(member, groups_of)
    for group, via in found.items():
        way = [member, *via, group]
        assert all(up in groups_of[below] for below, up in pairwise(way))


class GroupMachine(RuleBasedStateMachine):
    """A real store against a set of edges: what the directory, the effective view and history say."""

    members = Bundle("members")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.edges = set()
        self.epochs = []
        self.history = {}

    @initialize()
    def begin(self):
        self.opening = opened(URLS[0])
        self.store = self.loop.run_until_complete(self.opening.__aenter__())
        self.loop.run_until_complete(self._begin())

    async def _begin(self):
        self.world = World(self.store, FOLDER[0])
        self.scope = scope_of(*await make_tenant(self.store))
        self.key = await self.world.person(self.scope, Role.DEVELOPER)
        self.user = self.world.check(self.key).principal.id
        self.inside = scope_of(self.scope.organization_id)
        async with self.store.transaction(self.inside) as tx:
            self.groups = [(await self.world.identity.create_group(tx, f"g{number}"))["id"] for number in range(5)]

    def _named(self, place):
        if place < 0:
            return f"user:{format_id('usr', self.user)}"
        return f"group:{format_id('grp', self.groups[place])}"

    def _id(self, place):
        return self.user if place < 0 else self.groups[place]

    @rule(group=st.integers(0, 4), member=st.integers(-1, 4), is_member=st.booleans())
    def change(self, group, member, is_member):
        async def work():
            async with self.store.transaction(self.inside) as tx:
                return await self.world.identity.set_member(
                    tx, format_id("grp", self.groups[group]), self._named(member), is_member=is_member
                )

        edge = (self.groups[group], self._id(member))
        changed = (edge in self.edges) is not is_member
        answer = self.loop.run_until_complete(work())
        self.edges = self.edges | {edge} if is_member else self.edges - {edge}
        before = self.epochs[-1] if self.epochs else None
        assert before is None or answer.epoch == before + changed
        self.epochs.append(answer.epoch)
        self.history[answer.epoch] = set(self.edges)
        assert tokens.read(answer.consistency_token, self.scope.organization_id, b"t" * 32) == answer.epoch

    @invariant()
    def everybody_sees_the_same(self):
        if not hasattr(self, "groups"):
            return
        groups_of = {}
        for group, member in self.edges:
            groups_of.setdefault(member, []).append(group)
        wanted = naive(self.user, groups_of)
        self.loop.run_until_complete(self._compare(wanted))

    async def _compare(self, wanted):
        await self.world.directory.reload()
        assert self.world.check(self.key).principal.groups == wanted
        seen = await effective(self.store, self.inside, self.user, "user")
        assert {each.id for each in seen.groups} == wanted
        async with self.store.ops("history") as tx:
            rows = await tx.fetch(EDGES, self.scope.organization_id)
        for epoch, edges in self.history.items():
            then = {
                (row["group_id"], row["member_id"])
                for row in rows
                if row["from_epoch"] <= epoch and (row["to_epoch"] is None or row["to_epoch"] > epoch)
            }
            assert then == edges

    def teardown(self):
        if hasattr(self, "opening"):
            self.loop.run_until_complete(self.opening.__aexit__(None, None, None))
        self.loop.close()


URLS, FOLDER = [], []


def test_groups_of_a_real_store_behave_as_a_set_of_edges(store_urls, tmp_path):
    URLS[:], FOLDER[:] = [store_urls], [tmp_path]
    GroupMachine.TestCase.settings = settings(max_examples=8, stateful_step_count=14, deadline=None)
    case = GroupMachine.TestCase()
    case.runTest()


async def group(client, name):
    return (await client("POST", "/admin/v1/groups", {"name": name})).json["id"]


async def test_a_person_gets_a_role_through_nested_groups_and_loses_it_with_the_outer_edge(world, shop):
    text = await world.person(shop.scope, None)
    user = format_id("usr", world.check(text).principal.id)
    staff, leads = await group(shop.owner, "staff"), await group(shop.owner, "leads")
    for where, member in ((leads, f"user:{user}"), (staff, "group:leads")):
        assert (await shop.owner("PUT", f"/admin/v1/groups/{where}/members/{member}")).status == 200
    assert (
        await shop.owner("POST", "/admin/v1/memberships", {"principal": f"group:{staff}", "role": "auditor"})
    ).status == 201
    await world.feed.run_once()
    assert (await world.client(text)("GET", "/admin/v1/users")).status == 200
    seen = (await shop.owner("GET", f"/admin/v1/principals/{user}/effective")).json
    assert {each["id"]: each["via"] for each in seen["groups"]} == {leads: [], staff: [leads]}
    assert seen["roles"] == [{"role": "auditor", "workspace_id": None, "via": staff}]
    assert "audit:read" in seen["actions"]
    assert (await shop.owner("DELETE", f"/admin/v1/groups/staff/members/group:{leads}")).status == 200
    await world.feed.run_once()
    refused = await world.client(text)("GET", "/admin/v1/users")
    assert (refused.status, refused.code) == (403, "role_denied")


async def test_a_group_is_no_way_to_a_role_above_ones_own(world, shop):
    text = await world.person(shop.scope, Role.ADMIN)
    admin, admin_id = world.client(text), format_id("usr", world.check(text).principal.id)
    chiefs, inner = await group(shop.owner, "chiefs"), await group(shop.owner, "inner")
    assert (await shop.owner("PUT", f"/admin/v1/groups/{chiefs}/members/group:{inner}")).status == 200
    body = {"principal": f"group:{chiefs}", "role": "owner"}
    assert (await shop.owner("POST", "/admin/v1/memberships", body)).status == 201
    bot = {"name": "bot", "workspace_id": shop.workspace_id}
    bot_id = (await shop.owner("POST", "/admin/v1/service-accounts", bot)).json["id"]
    assert (await shop.owner("PUT", f"/admin/v1/groups/{inner}/members/sa:{bot_id}")).status == 200
    key = {"workspace_id": shop.workspace_id, "service_account": bot_id, "scopes": ["admin:write"]}
    of_bot = await shop.owner("POST", "/admin/v1/keys", key)
    assert of_bot.status == 201
    for method, path, body in (
        ("PUT", f"groups/{chiefs}/members/user:{admin_id}", None),
        ("PUT", f"groups/{inner}/members/user:{admin_id}", None),
        ("DELETE", f"groups/{inner}/members/sa:{bot_id}", None),
        ("DELETE", f"groups/{chiefs}", None),
        ("DELETE", f"service-accounts/{bot_id}", None),
        ("POST", "keys", {**key, "scopes": ["inference"]}),
        ("POST", f"keys/{of_bot.json['id']}/rotate", {}),
    ):
        refused = await admin(method, f"/admin/v1/{path}", body)
        assert (refused.status, refused.code) == (403, "role_denied"), path
    plain = await group(admin, "plain")
    assert (await admin("PUT", f"/admin/v1/groups/{plain}/members/user:{admin_id}")).status == 200


async def test_putting_a_member_twice_changes_nothing_and_tells_the_same_epoch(world, shop):
    where = await group(shop.owner, "staff")
    sa = (
        await shop.owner("POST", "/admin/v1/service-accounts", {"name": "bot", "workspace_id": shop.workspace_id})
    ).json
    first = await shop.owner("PUT", f"/admin/v1/groups/{where}/members/sa:{sa['id']}")
    again = await shop.owner("PUT", f"/admin/v1/groups/{where}/members/sa:bot")
    assert first.json == again.json
    assert first.headers["x-interlock-consistency-token"] == first.json["consistency_token"]
    assert len(await world.audited(shop.scope, "group.add")) == 1
    gone = await shop.owner("DELETE", f"/admin/v1/groups/{where}/members/sa:bot")
    assert gone.json["epoch"] == first.json["epoch"] + 1


async def test_a_deleted_group_takes_its_edges_and_roles_along_but_not_its_history(world, shop):
    text = await world.person(shop.scope, None)
    user = format_id("usr", world.check(text).principal.id)
    where = await group(shop.owner, "brief")
    await shop.owner("PUT", f"/admin/v1/groups/{where}/members/{user}")
    await shop.owner("POST", "/admin/v1/memberships", {"principal": where, "role": "admin"})
    await world.feed.run_once()
    assert "admin:write" in world.check(text).principal.scopes
    gone = await shop.owner("DELETE", f"/admin/v1/groups/{where}")
    assert gone.status == 200
    await world.feed.run_once()
    found = world.check(text)
    assert isinstance(found, Authenticated)
    assert (found.principal.scopes, found.principal.groups) == (frozenset(), frozenset())
    async with world.store.ops("history") as tx:
        (edge,) = await tx.fetch(EDGES, shop.scope.organization_id)
    assert edge["to_epoch"] is not None


async def test_groups_and_members_of_another_organization_do_not_exist(world, shop, rival):
    mine, theirs = await group(shop.owner, "mine"), await group(rival.owner, "theirs")
    stranger = format_id("usr", world.check(rival.owner_key).principal.id)
    nobody, nowhere = format_id("usr", IDS.new()), format_id("grp", IDS.new())
    for method in ("PUT", "DELETE"):
        for where, member in (
            (mine, stranger), (mine, nobody), (mine, f"user:{stranger}"), (mine, f"group:{theirs}"),
            (mine, "group:theirs"), (mine, f"sa:{stranger}"), (mine, "robot:x"), (mine, "x"),
            (theirs, nobody), (nowhere, nobody),
            ("theirs", nobody),
        ):  # fmt: skip
            refused = await shop.owner(method, f"/admin/v1/groups/{where}/members/{member}")
            assert (refused.status, refused.code) == (404, "not_found"), (where, member)
    for named in (stranger, nobody, f"user:{stranger}", theirs, mine):
        assert (await shop.owner("GET", f"/admin/v1/principals/{named}/effective")).status == 404


async def test_two_writers_of_one_group_never_lose_an_edge_or_an_epoch(world, shop):
    where = await group(shop.owner, "crowd")
    users = [
        (await shop.owner("POST", "/admin/v1/users", {"email": f"u{number}@shop.example"})).json["id"]
        for number in range(8)
    ]
    answers = await asyncio.gather(
        *(shop.owner("PUT", f"/admin/v1/groups/{where}/members/{user}") for user in users for _ in range(2))
    )
    statuses = {each.status for each in answers}
    assert statuses <= {200, 503}
    async with world.store.ops("history") as tx:
        rows = await tx.fetch(EDGES, shop.scope.organization_id)
    begun = {f"user:{format_id('usr', row['member_id'])}": row["from_epoch"] for row in rows}
    assert len(rows) == len(begun) == len(set(begun.values()))
    answered = [(each.json["member"], each.json["epoch"]) for each in answers if each.status == 200]
    assert answered
    assert all(begun[member] <= epoch for member, epoch in answered)


async def test_an_organization_has_a_bound_of_edges(world, shop):
    tight = IdentityService(world.store, world.audit, world.clock, IDS, b"t" * 32, IdentityConfig(group_edges_max=2))
    inside = scope_of(shop.scope.organization_id)
    assert inside.workspace_id is ALL_WORKSPACES

    async def add(group_name, member):
        async with world.store.transaction(inside) as tx:
            return await tight.set_member(tx, group_name, member, is_member=True)

    async with world.store.transaction(inside) as tx:
        for name in "abcd":
            await tight.create_group(tx, name)
    await add("a", "group:b")
    await add("a", "group:c")
    with pytest.raises(InterlockError, match="group_limit"):
        await add("a", "group:d")
    async with world.store.transaction(inside) as tx:
        await tight.set_member(tx, "a", "group:b", is_member=False)
    await add("a", "group:d")


def test_a_consistency_token_is_of_one_organization_and_cannot_be_made_up():
    own, other = IDS.new(), IDS.new()
    token = tokens.issue(own, 7, b"t" * 32)
    assert tokens.read(token, own, b"t" * 32) == 7
    for forged, where, key in ((token, other, b"t" * 32), (token, own, b"u" * 32), (token[:-1] + "a", own, b"t" * 32)):
        if forged == token and where == own and key == b"t" * 32:
            continue
        with pytest.raises(InterlockError, match="invalid_consistency_token"):
            tokens.read(forged, where, key)


@given(st.text(max_size=60))
def test_any_other_text_is_no_consistency_token(text):
    with pytest.raises(InterlockError, match="invalid_consistency_token"):
        tokens.read(text, UUID(int=1), b"t" * 32)


@given(st.integers(0, 2**63 - 1))
def test_a_token_carries_every_epoch(epoch):
    organization = uuid_of(format_id("org", UUID(int=5)))
    assert tokens.read(tokens.issue(organization, epoch, b"k"), organization, b"k") == epoch
