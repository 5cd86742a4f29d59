"""Search: who sees what, and that nobody else can tell."""

from interlock.contracts.retrieval import SearchQuery


async def found(service, scope, text, **options):
    searched = await service.search(scope, None, SearchQuery(text, **options))
    return [hit.document_id for hit in searched.result.hits]


async def test_a_member_finds_the_groups_document_and_nobody_else_does(world, service):
    await world.user("ann"), await world.user("bob")
    await world.group("g-support", "ann")
    refund = await world.document("Refunds take thirty days.", world.acl("g-support"))
    assert await found(service, world.scope_of("ann"), "refund") == [refund]
    assert await found(service, world.scope_of("bob"), "refund") == []
    await world.leave("g-support", "ann")
    assert await found(service, world.scope_of("ann"), "refund") == []
