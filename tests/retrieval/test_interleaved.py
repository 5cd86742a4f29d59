"""Reads beside writes: what a search gives is the world before a change or after it, never a mix."""

import asyncio
import random
from dataclasses import replace

import pytest

from interlock.contracts.retrieval import AnswerQuery, SearchQuery
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Membership, Role
from interlock.retrieval.service.answers import AnswerService
from tests.retrieval.conftest import searching
from tests.support.store import PATIENT, opened

PAIRS = 4
ROUNDS = 25


async def toggle(world, members, group, name, dice):
    """One person in and out of a group, as the identity service does it: edge and epoch in one transaction."""
    chief = replace(world.scope.principal, memberships=(Membership(Role.OWNER, None),), is_platform_operator=True)
    scope = replace(world.scope, principal=chief)
    is_member = True
    for _ in range(ROUNDS):
        is_member = not is_member
        async with world.store.transaction(scope) as tx:
            await members.set_member(tx, group, f"user:{format_id('usr', world.people[name])}", is_member=is_member)
        await asyncio.sleep(dice.random() * 0.01)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_revoke_beside_searches_is_seen_whole(world, store_urls, seed):
    async with opened(store_urls, connections_max=6, config=PATIENT) as store:
        world.store = store
        service, dice = searching(store), random.Random(seed)
        await world.user("ann")
        await world.group("g-pairs", "ann")
        pair = {await world.document(f"Refunds {n} of the pair.", world.acl("g-pairs")) for n in range(PAIRS)}
        always = await world.document("Refunds for ann.", world.acl("ann"))
        seen = []

        async def look(rounds=ROUNDS):
            for _ in range(rounds):
                result = (await service.search(world.scope_of("ann"), None, SearchQuery("refund"))).result
                seen.append(frozenset(hit.document_id for hit in result.hits))
                await asyncio.sleep(dice.random() * 0.01)

        await look(1)
        await asyncio.gather(toggle(world, service.parts.members, "g-pairs", "ann", dice), look(), look())
        await look(1)
        assert set(seen) <= {frozenset({always}), frozenset({always, *pair})}
        assert len(set(seen)) == 2


async def test_an_answer_beside_a_revoke_cites_what_may_be_read_or_is_refused(world, store_urls):
    async with opened(store_urls, connections_max=6, config=PATIENT) as store:
        world.store = store
        service, dice = searching(store), random.Random(3)
        answers = AnswerService(service)
        await world.user("ann")
        await world.group("g-pairs", "ann")
        secret = await world.document("Refunds of a cruise take thirty days.", world.acl("g-pairs"))
        epochs, refused = [], set()

        async def ask():
            for _ in range(ROUNDS):
                query = AnswerQuery(SearchQuery("how long do refunds of a cruise take?"))
                try:
                    answer = (await answers.answer(world.scope_of("ann"), None, query)).answer
                except InterlockError as error:
                    refused.add(error.code)
                    continue
                cited = {each.document_id for each in answer.citations}
                assert cited in ({secret}, set())
                assert (answer.answer is None) is (not cited)
                epochs.append((answer.epoch, bool(cited)))

        await asyncio.gather(toggle(world, service.parts.members, "g-pairs", "ann", dice), ask())
        assert refused <= {"sources_revoked"}
        # One epoch has one answer.
        assert len({epoch for epoch, _ in epochs}) == len(set(epochs))
