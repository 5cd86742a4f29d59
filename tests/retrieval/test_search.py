"""Search: who sees what, and that nobody else can tell."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.contracts.documents import AccessList
from interlock.contracts.incidents import Opened
from interlock.contracts.retrieval import Rerank, SearchMode, SearchQuery
from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.domain import tokens
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import Folder, external_id, external_name
from interlock.retrieval.domain.embedding import EmbedderUnavailableError
from interlock.retrieval.domain.fuse import Asked, collapse, fuse, placed_in_order, shortest_window
from interlock.retrieval.domain.plan import Plan
from tests.retrieval.conftest import TOKEN_KEY, searching
from tests.retrieval.world import PATIENT, WordEmbedder


def ago(seconds):
    return datetime.fromtimestamp(SystemClock().now_us() / 1e6 - seconds, tz=UTC)


async def searched(service, scope, text, principal=None, **options):
    return await service.search(scope, principal, SearchQuery(text, **options))


async def found(service, scope, text, principal=None, **options):
    result = (await searched(service, scope, text, principal, **options)).result
    return [hit.document_id for hit in result.hits]


def told(result):
    """What a caller can see of a result, but for what is the call's own."""
    return msgspec.json.encode([result.hits, result.facets, result.degraded])


async def test_a_member_finds_the_groups_document_and_nobody_else_does(world, service):
    await world.user("ann"), await world.user("bob")
    await world.group("g-support", "ann")
    refund = await world.document("Refunds take thirty days.", world.acl("g-support"))
    assert await found(service, world.scope_of("ann"), "refund") == [refund]
    assert await found(service, world.scope_of("bob"), "refund") == []
    await world.leave("g-support", "ann")
    assert await found(service, world.scope_of("ann"), "refund") == []


async def test_groups_nest_and_a_cycle_is_harmless(world, service):
    await world.user("ann")
    await world.group("g-inner", "ann"), await world.group("g-outer"), await world.group("g-top")
    await world.join("g-outer", "g-inner", "group")
    await world.join("g-top", "g-outer", "group")
    await world.join("g-inner", "g-top", "group")
    top = await world.document("Refunds at the top.", world.acl("g-top"))
    assert await found(service, world.scope_of("ann"), "refund") == [top]


async def test_deny_wins_and_a_clause_needs_all_of_it(world, service):
    await world.user("ann"), await world.user("bob")
    await world.group("g-eu", "ann", "bob"), await world.group("g-legal", "ann")
    both = await world.document("Refunds, eu and legal.", world.acl(("g-eu", "g-legal")))
    but_bob = await world.document("Refunds, but not for bob.", world.acl("g-eu", deny=["bob"]))
    everyone = await world.document("Refunds for everyone.", world.acl("everyone"))
    assert set(await found(service, world.scope_of("ann"), "refund")) == {both, but_bob, everyone}
    assert await found(service, world.scope_of("bob"), "refund") == [everyone]


async def test_an_empty_allow_list_means_nobody(world, service):
    """onyx-dot-app/onyx#4624: a restriction without a principal must not read as open."""
    await world.user("ann")
    await world.document("Refunds for nobody.", AccessList(()))
    assert await found(service, world.scope_of("ann"), "refund") == []
    assert await found(service, world.scope_of("ann"), "refund", mode=SearchMode.VECTOR) == []


async def test_what_folders_give_counts_and_a_break_ends_it(world, service):
    await world.user("ann"), await world.user("bob")
    own = AccessList((), (), inherit=True)
    await world.source()
    root = await world.container("shop", "/", world.acl("ann"))
    open_ = await world.container("shop", "/open", parent=root)
    closed = await world.container("shop", "/closed", world.acl("bob"), inherit=False, parent=root)
    above = Folder(world.acl("ann"))
    one = await world.document("Refunds one.", own, container=open_, folders=[Folder(None), above])
    two = await world.document(
        "Refunds two.", own, container=closed, folders=[Folder(world.acl("bob"), inherit=False), above]
    )
    assert await found(service, world.scope_of("ann"), "refund") == [one]
    assert await found(service, world.scope_of("bob"), "refund") == [two]


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_an_invisible_document_moves_no_byte(world, service, mode):
    """elastic/elasticsearch#115388: statistics of what a reader may not see leak it."""
    await world.user("ann"), await world.user("bob")
    for number in range(4):
        text = f"Refunds of order {number} take thirty days.\nShipping is free, refunds are not {number}."
        await world.document(text, world.acl("ann"))
    options = {"mode": mode, "with_facets": True}
    before = (await searched(service, world.scope_of("ann"), "refund of an order", **options)).result
    assert before.hits
    for _ in range(3):
        await world.document("refund order refund order thirty", world.acl("bob"), source="other")
        await world.document("Refund of an order, of an order.", world.acl("bob"), with_vector=False)
    after = (await searched(service, world.scope_of("ann"), "refund of an order", **options)).result
    assert told(after) == told(before)


@pytest.mark.parametrize("config", [{"state": "dark"}, {"kind": "folder"}, {"removed_us": 1}, {"mode": "observe"}])
async def test_a_source_that_is_not_open_shows_nothing(world, service, config):
    await world.user("ann")
    await world.source("quiet", **config)
    await world.document("Refunds from a quiet source.", world.acl("ann"), source="quiet")
    assert await found(service, world.scope_of("ann"), "refund") == []


async def test_unconfirmed_acl_goes_dark(world, service):
    """onyx-dot-app/onyx#4738: a sync of permissions that silently covers less must not leave old ones alive."""
    await world.user("ann")
    await world.source("files", "folder", acl_confirmed_at=ago(10))
    file = await world.document("Refunds in a file.", world.acl("ann"), source="files")
    assert await found(service, world.scope_of("ann"), "refund") == [file]
    await world.sql("UPDATE retrieval_sources SET acl_confirmed_at = $1", ago(4_000))
    result = (await searched(service, world.scope_of("ann"), "refund")).result
    assert result.hits == ()
    assert result.degraded == ("source_dark",)


async def test_only_the_named_see_a_source_that_is_observed(world, service):
    ann, _ = await world.user("ann"), await world.user("bob")
    await world.source("new", mode="observe", observe_principals=[ann])
    new = await world.document("Refunds, new.", world.acl("everyone"), source="new")
    assert await found(service, world.scope_of("ann"), "refund") == [new]
    assert await found(service, world.scope_of("bob"), "refund") == []


async def test_equal_group_names_of_two_sources_never_meet(world, service):
    """onyx-dot-app/onyx#13109: ids of groups of two sites collide."""
    ann = await world.user("ann")
    one, two = await world.source("one"), await world.source("two")
    names = [external_name(each, "team:ops") for each in (one, two)]
    mine = await world.document("Refunds of one.", world.acl(names[0]), source="one")
    await world.document("Refunds of two.", world.acl(names[1]), source="two")
    assert await found(service, world.scope_of("ann"), "refund") == []
    await world.sql(
        "INSERT INTO retrieval_identity_aliases VALUES ($1, $2, 'team:ops', $3, $4, 'user', $4, 1, 0)",
        world.organization_id, one, external_id(names[0]), ann,
    )  # fmt: skip
    assert await found(service, world.scope_of("ann"), "refund") == [mine]


async def test_another_organization_sees_nothing(world, service, store):
    other = await type(world).make(store)
    await world.user("ann"), await other.user("eve")
    await world.document("Refunds for everyone.", world.acl("everyone"))
    assert await found(service, other.scope_of("eve"), "refund") == []
    assert (await searched(service, other.scope_of("eve"), "refund")).look.plan.plan is Plan.NONE


async def test_filters_narrow_what_is_eligible_and_nothing_else(world, service):
    await world.user("ann")
    await world.source()
    folder = await world.container("shop", "/a/b")
    inherits = AccessList((), (), inherit=True)
    red = await world.document("Refunds in red.", world.acl("ann"), labels='{"color": "red", "size": "m"}')
    blue = await world.document("Refunds in blue.", world.acl("ann"), labels='{"color": "blue"}', updated_us=10**15)
    deep = await world.document("Refunds deep.", inherits, container=folder, folders=[Folder(world.acl("ann"))])
    scope = world.scope_of("ann")
    await world.sql("UPDATE retrieval_containers SET own_set_id = (SELECT set_id FROM retrieval_acl_bindings b"
                    " JOIN retrieval_documents d USING (acl_id) WHERE d.id = $1)", deep)  # fmt: skip
    for mode in SearchMode:
        assert await found(service, scope, "refund", mode=mode, labels={"color": "red"}) == [red]
        assert await found(service, scope, "refund", mode=mode, updated_after_us=10**14) == [blue]
        assert await found(service, scope, "refund", mode=mode, container_prefix="/a") == [deep]
        assert await found(service, scope, "refund", mode=mode, container_prefix="/a/bc") == []
        assert await found(service, scope, "refund", mode=mode, sources=(world.scope.principal.id,)) == []


async def test_equal_filters_of_another_form_find_the_same(world, service):
    """qdrant/qdrant#9926: the same restriction written otherwise must not change recall or scores."""
    await world.user("ann")
    shop = await world.source()
    for number in range(12):
        await world.document(f"Refunds number {number} of many.", world.acl("ann"), labels='{"all": "yes"}')
    plain = (await searched(service, world.scope_of("ann"), "refund number 3")).result
    forms = [
        {"labels": {"all": "yes"}}, {"labels": {}}, {"updated_after_us": 0}, {"sources": (shop,)},
        {"container_prefix": "/"}, {"sources": (shop, shop), "labels": {"all": "yes"}},
    ]  # fmt: skip
    for form in forms:
        again = (await searched(service, world.scope_of("ann"), "refund number 3", **form)).result
        assert told(again) == told(plain), form


async def test_both_plans_find_the_same(world, service, monkeypatch):
    await world.user("ann")
    for number in range(30):
        await world.document(f"Passage {number} about refund {number * 7 % 11} and cruise.", world.acl("ann"))
    scope, options = world.scope_of("ann"), {"mode": SearchMode.VECTOR, "hits": 20}
    exact = await searched(service, scope, "refund 7 cruise", **options)
    monkeypatch.setattr("interlock.retrieval.domain.plan.EXACT_CHUNKS_MAX", 3)
    bits = await searched(service, scope, "refund 7 cruise", **options)
    narrow = await searched(service, scope, "refund 7 cruise", updated_after_us=0, **options)
    assert (exact.look.plan.plan, bits.look.plan.plan) == (Plan.EXACT, Plan.BITS)
    assert told(exact.result) == told(bits.result) == told(narrow.result)


async def test_a_document_with_a_passage_in_every_place_hides_no_other(world, service, monkeypatch):
    """Its passages alone fill each leg; the reader asked for three documents, and there are three."""
    await world.user("ann"), await world.user("bob")
    handbook = await world.document("\n".join(["Walnut walnut."] * 20), world.acl("ann"))
    small = {await world.document(f"One walnut among pears and plums {n}.", world.acl("ann")) for n in range(2)}
    await world.document("\n".join(["Walnut walnut walnut."] * 12), world.acl("bob"))
    # Nine fill a leg, and to look twice as far is not far enough.
    bounds = {"LEG_DEPTH_MIN": 9, "RESCORED_MIN": 9, "RESCORED_A_HIT": 3, "WIDENED": 2}
    for plan, exact_max in ((Plan.EXACT, 2_000), (Plan.BITS, 0)):
        for name, value in {**bounds, "EXACT_CHUNKS_MAX": exact_max}.items():
            monkeypatch.setattr(f"interlock.retrieval.domain.plan.{name}", value)
        for mode in SearchMode:
            done = await searched(service, world.scope_of("ann"), "walnut", mode=mode, hits=3)
            hits = done.result.hits
            assert done.look.plan.plan is plan
            assert hits[0].document_id == handbook
            assert {hit.document_id for hit in hits} == {handbook, *small}, (plan, mode)
            assert max(len(done.look.lexical), len(done.look.vector)) == 11
            # Who wants one document looks no further.
            narrow = await searched(service, world.scope_of("ann"), "walnut", mode=mode, hits=1)
            assert [hit.document_id for hit in narrow.result.hits] == [handbook]
            assert max(len(narrow.look.lexical), len(narrow.look.vector)) == 9


async def test_where_no_time_is_left_a_leg_stays_as_it_is(world, service, monkeypatch):
    """To look further is worth less than an answer in time."""
    await world.user("ann")
    handbook = await world.document("\n".join(["Walnut walnut."] * 20), world.acl("ann"))
    await world.document("One walnut among pears.", world.acl("ann"))
    monkeypatch.setattr("interlock.retrieval.domain.plan.LEG_DEPTH_MIN", 9)
    monkeypatch.setattr("interlock.retrieval.service.looking._LOOK_SHARE_MIN", 2.0)
    for mode in SearchMode:
        result = (await searched(service, world.scope_of("ann"), "walnut", mode=mode, hits=3)).result
        assert ([hit.document_id for hit in result.hits], result.degraded) == ([handbook], ("deadline",))


async def test_a_token_of_a_later_epoch_is_waited_for_and_a_garbled_one_refused(world, service, store):
    await world.user("ann")
    late = searching(store, config=replace(PATIENT, fresh_wait_s=0.1))
    epoch = await world.epoch()
    future = tokens.issue(world.organization_id, epoch + 1, TOKEN_KEY)
    with pytest.raises(InterlockError, match="not_fresh_enough"):
        await searched(late, world.scope_of("ann"), "refund", at_least_as_fresh=future)
    assert await world.epoch() == epoch + 1
    result = (await searched(late, world.scope_of("ann"), "refund", at_least_as_fresh=future)).result
    assert tokens.read(result.consistency_token, world.organization_id, TOKEN_KEY) == epoch + 1 == result.epoch
    other = await type(world).make(store)
    for token in ("ct1.nonsense", tokens.issue(other.organization_id, 1, TOKEN_KEY)):
        with pytest.raises(InterlockError, match="invalid_consistency_token"):
            await searched(late, world.scope_of("ann"), "refund", at_least_as_fresh=token)


class NoEmbedder(WordEmbedder):
    async def embed(self, texts):
        raise EmbedderUnavailableError("gone")


async def test_without_an_embedder_words_still_find(world, store):
    await world.user("ann")
    refund = await world.document("Refunds take thirty days.", world.acl("ann"))
    result = (await searched(searching(store, embedder=NoEmbedder()), world.scope_of("ann"), "refund")).result
    assert [hit.document_id for hit in result.hits] == [refund]
    assert result.degraded == ("embedder_unavailable",)


async def test_words_are_found_while_vectors_are_pending(world, service):
    await world.user("ann"), await world.user("bob")
    refund = await world.document("Refunds take thirty days.", world.acl("ann"), with_vector=False)
    await world.document("Refunds for bob.", world.acl("bob"))
    result = (await searched(service, world.scope_of("ann"), "refund")).result
    assert ([hit.document_id for hit in result.hits], result.degraded) == ([refund], ("vectors_pending",))
    assert (await searched(service, world.scope_of("bob"), "refund")).result.degraded == ()


async def test_the_few_whose_vectors_are_made_first_do_not_push_the_right_one_aside(world, service):
    await world.user("ann")
    everyone = world.acl("everyone")
    for number in range(12):
        await world.document(f"The day of delivery {number} is paid by the carrier.", everyone)
    right = await world.document("Salaries are paid on the 27th day.", everyone, with_vector=False)
    result = (await searched(service, world.scope_of("ann"), "on which day are salaries paid")).result
    assert (result.hits[0].document_id, result.degraded) == (right, ("vectors_pending",))


class Sink:
    def __init__(self):
        self.reports = []

    async def report(self, scope, report):
        self.reports.append(report)
        return Opened("inc_1", "open")


async def test_the_second_path_catches_a_wrong_slot_and_the_source_goes_dark(world, store):
    """The document says ann, its rows point at a slot that lets bob in: one wrong path, and nothing leaves."""
    await world.user("ann"), await world.user("bob")
    await world.document("Refunds for bob.", world.acl("bob"))
    wrong = await world.document("Refunds for ann.", world.acl("ann"))
    await world.sql("UPDATE retrieval_documents SET own_acl = $2 WHERE id = $1", wrong, '{"allow": [], "deny": []}')
    sink = Sink()
    service = searching(store, incidents=sink)
    with pytest.raises(InterlockError, match="retrieval_guard_tripped"):
        await searched(service, world.scope_of("ann"), "refund")
    (row,) = await world.sql("SELECT state, state_reason, state_epoch FROM retrieval_sources")
    assert (row["state"], row["state_reason"]) == ("dark", "guard_tripped")
    assert row["state_epoch"] > 0
    assert [report.detector for report in sink.reports] == ["guard"]
    assert await found(service, world.scope_of("bob"), "refund") == []


async def test_a_revoke_during_a_search_is_seen_before_anything_leaves(world, store):
    """Before or after, never a mix: what was found and revoked meanwhile is dropped, and recorded."""
    await world.user("ann")
    await world.group("g-support", "ann")
    secret = await world.document("Refunds of support.", world.acl("g-support"))
    mine = await world.document("Refunds of ann.", world.acl("ann"))
    service = searching(store)
    look = service._eye.look
    calls = []

    class Revoking:
        async def look(self, *args):
            seen = await look(*args)
            if not calls:
                calls.append(1)
                await world.leave("g-support", "ann")
            return seen

    service._eye = Revoking()
    scope = world.scope_of("ann")
    result = (await searched(service, scope, "refund", with_facets=True)).result
    assert [hit.document_id for hit in result.hits] == [mine]
    assert sum(count for _, count in result.facets["kind"]) == 1
    (row,) = await world.sql("SELECT dropped FROM retrieval_searches WHERE request_id = $1", scope.request_id)
    assert "revoked_in_flight" in row["dropped"]
    assert secret.hex not in row["dropped"]


async def test_a_search_is_recorded_by_ids_and_without_its_words(world, service):
    await world.user("ann")
    await world.document("Refunds take thirty days.", world.acl("ann"), title="Canaryword")
    scope = world.scope_of("ann")
    await searched(service, scope, "unheardof refund")
    (row,) = await world.sql("SELECT * FROM retrieval_searches WHERE request_id = $1", scope.request_id)
    assert (row["kind"], row["plan"], row["eligible_chunks"], row["eligible_documents"]) == ("search", "exact", 1, 1)
    assert "unheardof" not in str(dict(row))
    assert "Refunds" not in str(dict(row)).replace("refunds", "")
    assert "Canaryword" not in str(dict(row))


async def test_too_many_searches_are_refused_and_their_turn_comes(world, store):
    await world.user("ann")
    service = searching(store, config=replace(PATIENT, searches_max=1, search_waiting_max=0))
    async with service.turn():
        with pytest.raises(InterlockError, match="search_overloaded") as refused:
            await searched(service, world.scope_of("ann"), "refund")
    assert refused.value.retry_after_s == 1
    assert (await searched(service, world.scope_of("ann"), "refund")).result.hits == ()
    assert service.statistics().refused == 1


class Slow(WordEmbedder):
    async def embed(self, texts):
        await SystemClock().sleep(3_600)


async def test_a_slow_embedder_leaves_time_for_words(world, store):
    await world.user("ann")
    refund = await world.document("Refunds take thirty days.", world.acl("ann"))
    # The words need more of it only on a machine that stands still.
    for deadline_s in (4.0, 60.0):
        service = searching(store, embedder=Slow(), config=RetrievalConfig(search_deadline_s=deadline_s))
        with suppress(InterlockError):
            result = (await searched(service, world.scope_of("ann"), "refund")).result
            if result.hits:
                break
    assert ([hit.document_id for hit in result.hits], result.degraded) == ([refund], ("deadline",))


async def test_a_search_that_takes_too_long_ends(world, store):
    await world.user("ann")
    service = searching(store, config=RetrievalConfig(search_deadline_s=0.1))

    class Stuck:
        async def look(self, *args):
            await SystemClock().sleep(60)

    service._eye = Stuck()
    with pytest.raises(InterlockError, match="deadline_exceeded"):
        await searched(service, world.scope_of("ann"), "refund")
    assert service.statistics().running == 0


async def test_passages_are_cut_where_the_publisher_wants_it(world, service):
    await world.user("ann")
    await world.document("Refunds take thirty days and more.", world.acl("ann"), snippet_chars_max=7)
    (hit,) = (await searched(service, world.scope_of("ann"), "refund")).result.hits
    assert [(each.text, each.start, each.end) for each in hit.passages] == [("Refunds", 0, 7)]


async def test_passages_of_a_document_stand_together_with_their_spans(world, service):
    await world.user("ann")
    text = "Refunds one.\nNothing here.\nRefunds two, refunds.\nRefunds three."
    document = await world.document(text, world.acl("ann"))
    (hit,) = (await searched(service, world.scope_of("ann"), "refund", mode=SearchMode.LEXICAL, passages=2)).result.hits
    assert hit.document_id == document
    assert len(hit.passages) == 2
    assert all(text[each.start : each.end] == each.text for each in hit.passages)


async def test_without_reranking_the_fused_order_stands(world, service):
    await world.user("ann")
    for number in range(3):
        await world.document(f"Refunds {'refund ' * number}", world.acl("ann"))
    result = (await searched(service, world.scope_of("ann"), "refund", rerank=Rerank.NONE)).result
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
    assert all(hit.lexical_rank and hit.vector_rank for hit in result.hits)


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_fusion_is_the_union_in_a_strict_order(one, two):
    fused = fuse(one, two, 2)
    assert {each.chunk_id for each in fused} == {*one, *two}
    keys = [(-each.score, -each.chunk_id) for each in fused]
    assert keys == sorted(keys)
    assert all(0 < each.score <= 1 for each in fused)
    if one and two and one[0] == two[0]:
        assert fused[0].chunk_id == one[0]
        assert fused[0].score == pytest.approx(1)


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.lists(st.integers(31, 60), unique=True))
def test_words_alone_keep_their_order_where_no_vector_is_made(words, others):
    fused = fuse(words, others, 2, pending=set(words))
    assert [each.chunk_id for each in fused if each.lexical] == words
    assert fused[0].chunk_id == words[0]


@given(st.lists(st.integers(0, 200), unique=True, min_size=1), st.data())
def test_what_is_not_reranked_stays_below_in_its_order(chunks, data):
    fused = fuse(chunks, [], 1)
    head = data.draw(st.integers(0, len(fused)))
    scores = {each.chunk_id: data.draw(st.floats(0.01, 1)) for each in fused[:head]}
    placed = placed_in_order(fused, dict.fromkeys(chunks, "d"), scores)
    assert [each.score for each in placed] == sorted((each.score for each in placed), reverse=True)
    assert [each.chunk_id for each in placed[head:]] == [each.chunk_id for each in fused[head:]]


def test_a_document_stands_where_its_best_passage_does():
    fused = fuse([1, 2, 3, 4, 5], [], 1)
    documents = {1: "a", 2: "b", 3: "a", 4: "a", 5: "c"}
    hits = collapse(placed_in_order(fused, documents, None), hits=2, passages=2)
    assert [(hit.document_id, [each.chunk_id for each in hit.passages]) for hit in hits] == [("a", [1, 3]), ("b", [2])]


def test_a_window_is_the_shortest_stretch_with_all_words():
    assert shortest_window([(0, "a"), (5, "b"), (6, "a"), (9, "b")], 2) == 2
    assert Asked("refund order").window("an order for a refund refund order") == 1.0
    assert Asked("refund order").window("only a refund") == 0.0
    assert Asked("W2378156 refund").identifier_share("order w2378156") == 1.0
