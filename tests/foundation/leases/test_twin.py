"""The in-memory twin that simulations use makes the same moves as PostgreSQL."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.foundation.leases import LeaseLostError
from tests.foundation.leases.worlds import PURGE, make_pair
from tests.support.store import opened

pytestmark = pytest.mark.xdist_group("leases")
# The real table's time goes on while the moves are made; no machine is so slow that this comes due by itself.
LATER_S = 100_000.0

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["finish", "finish_for_good", "release", "renew"]), st.integers(0, 40)),
        st.tuples(st.sampled_from(["expire", "make_due"]), st.integers(0, 11)),
        st.tuples(st.just("reap"), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=MOVES)
def test_twin_and_table_stay_equal_move_by_move(store_urls, moves):
    asyncio.run(play(store_urls, moves))


async def play(store_urls, moves):
    async with opened(store_urls) as store:
        pair = await make_pair(store)
        try:
            fences = []
            for move, number in moves:
                await step(pair, fences, move, number)
                await pair.assert_equal()
        finally:
            async with store.ops("test") as tx:
                await tx.execute(PURGE)


async def step(pair, fences, move, number):
    pair.twin.clock.now_s += 0.001  # what comes due later is later in both
    if move == "claim":
        real, twin = await pair.real.claim("w", number), await pair.twin.claim("w", number)
        assert {lease.fence for lease in real} == {lease.fence for lease in twin}
        fences += [lease.fence for lease in twin]
    elif move in {"expire", "make_due"}:
        await getattr(pair, move)(pair.keys[number])
    elif move == "reap":
        assert await pair.real.reap() == await pair.twin.reap()
    elif fences:
        await use(pair, fences[number % len(fences)], move)


async def use(pair, fence, move):
    """An old fence is refused by both, a current one accepted by both."""
    if move == "renew":
        assert await pair.real.renew("w", [fence]) == await pair.twin.renew("w", [fence])
        return
    outcomes = []
    for side in (pair.real, pair.twin):
        try:
            if move == "release":
                await side.release(fence, "test", LATER_S)
            else:
                await side.finish(fence, None if move == "finish_for_good" else LATER_S)
            outcomes.append("done")
        except LeaseLostError:
            outcomes.append("lost")
    assert outcomes[0] == outcomes[1]
