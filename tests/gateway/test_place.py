"""A provider is asked with its secret as it is now, however the change of it and a request cross."""

import asyncio

from interlock.foundation.flags import bump
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.gateway.domain.directory import (
    Deployment,
    Directory,
    DirectoryRows,
    Provider,
    ProviderKind,
    Route,
    RouteSpec,
    Target,
)
from interlock.gateway.service.place import Placer
from tests.gateway.vendors import lead
from tests.gateway.worlds import TOKEN, patient, world


class Passing:
    """As much of a passage as a placer looks at."""

    is_bypassed = False

    def __init__(self, directory):
        self.placement = directory.find(SYSTEM_ORGANIZATION_ID, "shop")


def directory():
    owner = SYSTEM_ORGANIZATION_ID
    return Directory(
        DirectoryRows(
            providers=(Provider(owner, "vendor", ProviderKind.OPENAI, "https://vendor.example/v1", secret="s"),),
            deployments=(Deployment(owner, "d", "vendor", "model"),),
            routes=(Route(owner, "shop", 1, 0, RouteSpec(targets=(Target("d"),))),),
        )
    )


async def test_a_secret_that_was_on_its_way_when_it_changed_is_not_kept():
    stored, answer = ["old"], asyncio.Event()

    async def open_secret(_organization, _name):
        read = stored[0]
        await answer.wait()
        return read

    placer = Placer(None, patient(), TOKEN, open_secret)
    early = asyncio.create_task(placer.place(Passing(directory()), None))
    await asyncio.sleep(0)
    stored[0] = "new"
    placer.forget()
    answer.set()
    assert (await early).headers[-1] == (b"authorization", b"Bearer old")

    late = Passing(directory())
    assert placer.at_once(late) is None
    assert (await placer.place(late, None)).headers[-1] == (b"authorization", b"Bearer new")
    assert placer.at_once(late).headers[-1] == (b"authorization", b"Bearer new")


async def test_an_edge_opens_a_secret_anew_when_the_feed_says_that_secrets_changed(store, scope):
    async with world(store, scope) as edge:
        opened = []

        async def open_secret(_organization, name):
            opened.append(name)
            return TOKEN

        edge.process._placer._open_secret = open_secret
        await lead(edge, "shop", ProviderKind.OPENAI, edge.engine_url, secret="provider-shop")
        await edge.followed()
        opened.clear()
        for _ in range(2):
            await edge.chat(model="shop")
        assert opened == ["provider-shop"]
        async with store.transaction(scope) as tx:
            await bump(tx, "secrets")
        await edge.followed()
        await edge.chat(model="shop")
        assert opened == ["provider-shop"] * 2
