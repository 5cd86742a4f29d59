"""A switch stops what it names, for whom it may, and everybody knows within a second."""

import asyncio
from dataclasses import replace

import pytest

from interlock.foundation.flags import ChangeFeed, FlagsConfig, Kill, KillBoard, KillMode, KillScope, seal_local
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.scope import Role
from interlock.foundation.store import Query
from tests.foundation.flags.worlds import Process
from tests.foundation.identity.worlds import PEPPER, uuid_of
from tests.support.store import IDS, opened

SWITCHES = "/admin/v1/kill-switches"
FORGET = Query("forget", "a clean table of processes", "DELETE FROM flags_acknowledgements")


@pytest.fixture
async def alone(store):
    """No process of an earlier test counts as alive, and none of this one in a later."""
    await forget(store)
    yield
    await forget(store)


async def forget(store):
    async with store.ops("a clean table") as tx:
        await tx.execute(FORGET)


def kill(scope, target, organization_id=SYSTEM_ORGANIZATION_ID, **fields):
    texts = {"id": format_id("kill", IDS.new()), "mode": "reject", "reason": "test", "actor": "test"}
    return Kill(scope=scope, target=target, organization_id=organization_id, created_us=1, **{**texts, **fields})


def switch(scope, target, mode="reject", reason="it misbehaves"):
    return {"scope": scope, "target": target, "mode": mode, "reason": reason}


@pytest.mark.usefixtures("alone")
async def test_a_switch_is_answered_when_every_process_knows_it(world, shop):
    world.kills._config = replace(world.kills._config, acknowledge_wait_s=240.0, process_alive_s=3_600.0)
    edges = [Process(world.store, world.clock, f"edge-{number}") for number in range(2)]
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(edge.feed.run()) for edge in edges]
        while not all(edge.feed.age_s < 10 for edge in edges):
            await world.clock.sleep(0.01)
        on = await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))
        assert on.status == 201, on.content
        assert on.json["acknowledged"] == ["edge-0", "edge-1"]
        assert on.json["missing"] == []
        for edge in edges:
            assert edge.switches.check([("workspace", str(shop.scope.workspace_id))]).id == on.json["id"]
        off = await shop.owner("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "mended"})
        assert (off.status, off.json["missing"]) == (200, [])
        for edge in edges:
            assert edge.switches.check([("workspace", str(shop.scope.workspace_id))]) is None
        for loop in loops:
            loop.cancel()
    assert [each.action for each in await world.audited(shop.scope, "kill.off")] == ["kill.off"]


@pytest.mark.usefixtures("alone")
async def test_a_process_that_does_not_answer_is_named_and_a_dead_one_is_forgotten(world, shop):
    world.kills._config = replace(world.kills._config, process_alive_s=3_600.0)
    deaf = Process(world.store, world.clock, "edge-deaf")
    await deaf.feed.run_once()
    on = await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))
    assert on.json["missing"] == ["edge-deaf"]
    assert on.json["propagation_ms"] >= 1_000
    await deaf.feed.run_once()
    again = await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id, "drain"))
    assert (again.json["id"], again.json["mode"]) == (on.json["id"], "drain")


async def test_a_switch_on_a_name_stops_only_those_it_may_stop():
    mine, theirs = IDS.new(), IDS.new()
    board = KillBoard([kill("route", "chat", mine), kill("provider", "cloud"), kill("gateway", "*")])
    assert board.check([("route", "chat")], mine) is not None
    assert board.check([("route", "chat")], theirs) is None
    assert board.check([("route", "chat")]) is None
    assert board.check([("provider", "cloud")], theirs) is not None
    assert board.check([("gateway", "*")], theirs) is not None
    assert KillBoard().check([("gateway", "*")], mine) is None


@pytest.mark.parametrize("mode", list(KillMode))
async def test_every_scope_takes_every_mode(world, shop, mode):
    operator = await world.operator()
    key = (await shop.owner("GET", "/admin/v1/keys")).json["data"][0]
    about = {"kind": "beta", "match": {"header": "x"}, "reason": "to be tried"}
    beta = await operator("POST", "/admin/v1/flags", {"name": f"beta-{IDS.new().hex}", **about})
    targets = {
        KillScope.GATEWAY: "*",
        KillScope.ORGANIZATION: shop.organization_id,
        KillScope.WORKSPACE: shop.workspace_id,
        KillScope.KEY: key["id"],
        KillScope.ROUTE: f"route-{IDS.new().hex}",
        KillScope.DEPLOYMENT: f"deployment-{IDS.new().hex}",
        KillScope.PROVIDER: f"provider-{IDS.new().hex}",
        KillScope.BETA: beta.json["name"],
        KillScope.POOL: f"pool-{IDS.new().hex}",
        KillScope.ENGINE: format_id("eng", IDS.new()),
        KillScope.CLASS: f"class-{IDS.new().hex}",
        KillScope.RETRIEVAL: f"retrieval-{IDS.new().hex}",
        KillScope.RETRIEVAL_SOURCE: f"source-{IDS.new().hex}",
        KillScope.CRAWLER: f"crawler-{IDS.new().hex}",
        KillScope.CRAWL: f"crawl-{IDS.new().hex}",
        KillScope.CRAWL_HOST: f"{IDS.new().hex}.example",
        KillScope.AGENTS: f"tool:{IDS.new().hex}",
    }
    assert set(targets) == set(KillScope)
    for scope, target in targets.items():
        on = await operator("POST", SWITCHES, switch(scope, target, mode))
        assert (on.status, on.json["target"], on.json["mode"]) == (201, target, mode), on.content
        await world.switches.reload()
        inside = str(uuid_of(target)) if scope in {"organization", "workspace", "key"} else target
        assert world.switches.check([(scope, inside)], IDS.new()).mode == mode
        assert (await operator("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "done"})).status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        switch("galaxy", "*"), switch("gateway", "everything"), switch("workspace", "x", "explode"),
        switch("route", ""), switch("route", "x", reason="  "), switch("route", "x" * 257),
        {**switch("route", "x"), "until": "tomorrow"}, {"scope": "route"},
    ],
)  # fmt: skip
async def test_a_switch_that_makes_no_sense_is_refused(world, wrong):
    operator = await world.operator()
    refused = await operator("POST", SWITCHES, wrong)
    assert refused.status == 400, refused.content


async def test_an_organization_stops_its_own_and_nothing_of_another(world, shop, rival):
    their_key = (await rival.owner("GET", "/admin/v1/keys")).json["data"][0]["id"]
    for scope, target, unknown in (
        ("organization", rival.organization_id, format_id("org", IDS.new())),
        ("workspace", rival.workspace_id, format_id("ws", IDS.new())),
        ("key", their_key, format_id("key", IDS.new())),
    ):
        answers = [await shop.owner("POST", SWITCHES, switch(scope, named)) for named in (target, unknown)]
        assert {each.status for each in answers} == {404}
    for wanted in (switch("gateway", "*"), switch("engine", format_id("eng", IDS.new()))):
        refused = await shop.owner("POST", SWITCHES, wanted)
        assert (refused.status, refused.code) == (403, "role_denied")
    own = await shop.owner("POST", SWITCHES, switch("organization", shop.organization_id))
    assert own.status == 201
    assert (await rival.owner("DELETE", f"{SWITCHES}/{own.json['id']}", {"reason": "mine"})).status == 404
    assert own.json["id"] not in (await rival.owner("GET", SWITCHES)).content.decode()
    assert [each["id"] for each in (await shop.owner("GET", SWITCHES)).json["data"]] == [own.json["id"]]


async def test_support_turns_on_but_not_off(world, shop):
    support = world.client(await world.person(shop.scope, Role.SUPPORT))
    on = await support("POST", SWITCHES, switch("workspace", shop.workspace_id))
    assert on.status == 201
    refused = await support("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "I take it back"})
    assert (refused.status, refused.code) == (403, "role_denied")
    empty = await shop.owner("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": " "})
    assert empty.status == 400
    assert (await shop.owner("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "mended"})).status == 200


async def test_what_the_platform_stopped_the_organization_cannot_start(world, shop):
    operator = await world.operator()
    on = await operator("POST", SWITCHES, switch("workspace", shop.workspace_id))
    assert on.status == 201
    assert (await shop.owner("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "please"})).status == 404
    assert on.json["id"] in (await operator("GET", f"{SWITCHES}?limit=200")).content.decode()
    own = await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))
    assert (await operator("DELETE", f"{SWITCHES}/{own.json['id']}", {"reason": "by the platform"})).status == 200
    assert (await operator("DELETE", f"{SWITCHES}/{on.json['id']}", {"reason": "done"})).status == 200


async def test_an_unknown_state_keeps_the_last_known(world, shop):
    on = await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))
    await world.switches.reload()
    world.store._pulse.is_up = False
    with pytest.raises(Exception, match="store_unavailable"):
        await world.switches.reload()
    assert world.switches.check([("workspace", str(shop.scope.workspace_id))]).id == on.json["id"]
    world.store._pulse.is_up = True
    fresh = Process(world.store, world.clock, None).switches
    fresh.load(world.switches.to_bytes())
    assert fresh.check([("workspace", str(shop.scope.workspace_id))]).id == on.json["id"]


async def test_a_local_file_stops_with_the_store_away_and_only_its_removal_lifts_it(world, tmp_path):
    folder = tmp_path / "kill.d"
    folder.mkdir()
    process = Process(world.store, world.clock, None, folder)
    changes = []
    process.switches.on_change(lambda: changes.append(len(process.switches.kills)))
    world.store._pulse.is_up = False
    file = folder / "one.kill"
    file.write_bytes(seal_local(kill("gateway", "*", is_local=True), PEPPER))
    process.switches.look_at_folder()
    assert process.switches.check([("gateway", "*")]).is_local
    for content in (b"", b"garbage", seal_local(kill("gateway", "*"), b"another key"), file.read_bytes()[:-2] + b"!}"):
        file.write_bytes(content)
        process.switches.look_at_folder()
        assert process.switches.check([("gateway", "*")]), content
    folder.rename(tmp_path / "gone")
    process.switches.look_at_folder()
    assert process.switches.check([("gateway", "*")])
    (tmp_path / "gone").rename(folder)
    file.unlink()
    process.switches.look_at_folder()
    assert process.switches.check([("gateway", "*")]) is None
    assert changes == [1, 0]
    world.store._pulse.is_up = True


async def test_a_file_that_nobody_signed_stops_nothing(world, tmp_path):
    process = Process(world.store, world.clock, None, tmp_path)
    (tmp_path / "a.kill").write_bytes(seal_local(kill("gateway", "*"), b"a stranger's key"))
    (tmp_path / "b.kill").write_bytes(b"\xff" * 9_000)
    (tmp_path / "c.kill").mkdir()
    (tmp_path / "d.txt").write_bytes(seal_local(kill("gateway", "*"), PEPPER))
    process.switches.look_at_folder()
    assert process.switches.kills == ()


async def test_the_feed_waits_for_the_store_and_then_knows_everything_it_missed(world, shop, store_urls):
    async with opened(store_urls) as other:
        process = Process(other, world.clock, "edge-waits")
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(process.feed.run())
            while process.feed.age_s > 10:
                await world.clock.sleep(0.01)
            for pulse in other._tasks[:1]:
                pulse.cancel()
            other._pulse.is_up = False
            await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))
            while not process.feed.statistics()["failures"]:
                await world.clock.sleep(0.01)
            assert process.switches.check([("workspace", str(shop.scope.workspace_id))]) is None
            other._pulse.is_up = True
            while process.switches.check([("workspace", str(shop.scope.workspace_id))]) is None:
                await world.clock.sleep(0.01)
            loop.cancel()


async def test_a_reload_that_breaks_does_not_end_the_feed_and_is_tried_again(world, shop):
    feed = ChangeFeed(world.store, world.clock, FlagsConfig(poll_s=0.05))
    tries = []

    async def broken_twice():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("a row that this version cannot read")

    feed.subscribe("keys", broken_twice)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(feed.run())
        while len(tries) < 3 or feed.statistics()["failures"]:
            await world.clock.sleep(0.01)
        loop.cancel()
    assert len(tries) == 3


async def test_a_topic_that_cannot_be_read_keeps_no_switch_from_acting(world, shop):
    """A row of one tenant that this version cannot read must not leave what was stopped at work."""
    process = Process(world.store, world.clock, f"edge-half-{shop.workspace_id}")
    reads = []

    async def broken():
        raise ValueError("a row that this version cannot read")

    async def read():
        reads.append(1)

    process.feed = ChangeFeed(world.store, world.clock, process=f"edge-half-{shop.workspace_id}")
    for topic, reload in (("routes", broken), ("routes", read), ("kills", process.switches.reload), ("keys", read)):
        process.feed.subscribe(topic, reload)
    with pytest.raises(ValueError, match="cannot read"):
        await process.feed.run_once()
    assert (await shop.owner("POST", SWITCHES, switch("workspace", shop.workspace_id))).status == 201
    with pytest.raises(ValueError, match="cannot read"):
        await process.feed.run_once()
    assert process.switches.check([("workspace", str(shop.scope.workspace_id))])
    assert len(reads) >= 3
    assert process.feed.age_s == float("inf")


async def test_a_process_calls_itself_degraded_when_nobody_confirms_what_it_knows(world):
    world.clock.stop()
    feed = ChangeFeed(world.store, world.clock, FlagsConfig())
    assert feed.age_s == float("inf")
    await feed.run_once()
    assert not feed.is_degraded()
    world.clock.forward += 31
    assert feed.is_degraded()


async def test_epochs_of_a_topic_rise_in_the_order_of_their_commits(world, shop):
    """Writers of one topic wait for each other, so a process that has seen an epoch has seen all before it."""
    keys = [(await shop.owner("POST", "/admin/v1/keys", {"workspace_id": shop.workspace_id})).json for _ in range(4)]
    targets = [each["id"] for each in keys]
    answers = await asyncio.gather(*(shop.owner("POST", SWITCHES, switch("key", target)) for target in targets))
    epochs = [each.json["epoch"] for each in answers if each.status == 201]
    feed = ChangeFeed(world.store, world.clock)
    await feed.run_once()
    async with world.store.ops("look") as tx:
        newest = await tx.fetchval(Query("n", "n", "SELECT epoch FROM flags_epochs WHERE topic = 'kills'"))
    assert len(set(epochs)) == len(epochs)
    assert newest == max(epochs)
