"""Chains of prompts: equal beginnings give equal hashes, and no tenant meets another's."""

from uuid import UUID

from interlock.gateway.domain.prefix import BLOCKS_MAX, prefix_chain

ONE, OTHER = UUID(int=1), UUID(int=2)


def test_a_chain_agrees_as_far_as_the_prompts_do():
    shared = b"s" * 1_100
    first, second = prefix_chain(ONE, shared + b"a" * 900), prefix_chain(ONE, shared + b"b" * 900)
    assert (len(first), first[:2] == second[:2]) == (3, True)
    assert not set(first[2:]) & set(second[2:])


def test_the_same_prompt_of_another_tenant_has_another_chain():
    assert not set(prefix_chain(ONE, b"x" * 5_000)) & set(prefix_chain(OTHER, b"x" * 5_000))


def test_a_block_is_named_by_all_that_stands_before_it():
    assert prefix_chain(ONE, b"a" * 512 + b"c" * 512)[1] != prefix_chain(ONE, b"b" * 512 + b"c" * 512)[1]


def test_a_chain_is_bounded_and_a_short_prompt_has_none():
    assert len(prefix_chain(ONE, b"x" * 1_000_000)) == BLOCKS_MAX
    assert prefix_chain(ONE, b"x" * 511) == ()
