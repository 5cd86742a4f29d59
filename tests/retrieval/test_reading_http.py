"""HTTP of reading: search, answers, citations, explanations; and what each refuses."""

import hashlib
import json

import pytest

from interlock.contracts.documents import AccessList
from interlock.contracts.retrieval import SearchQuery
from interlock.foundation.control.story import STORY_HEADER, ControlStory
from interlock.foundation.ids import format_id
from interlock.foundation.wire.sse import SseParser
from interlock.retrieval.domain.asking import query_problem
from tests.retrieval.conftest import DELEGATE, EXPLAIN, READ

SEARCH, ANSWERS, EXPLAINED = "/v1/retrieval/search", "/v1/retrieval/answers", "/v1/retrieval/explain"
TEXT = "Refunds of a cruise take thirty days. The kitchen opens at noon. Pets travel in the hold."


@pytest.fixture
async def shop(world):
    await world.user("ann"), await world.user("bob")
    await world.group("g-support", "ann")
    world.refund = await world.document(TEXT, world.acl("g-support"), title="Refund policy")
    return world


def document(identity):
    return format_id("doc", identity)


async def test_a_search_answers_as_the_page_says(shop, ask):
    answer = await ask("ann", "POST", SEARCH, {"query": "refund of a cruise", "facets": True})
    body = answer.json
    (hit,) = body["hits"]
    assert answer.headers["x-interlock-consistency-token"] == body["consistency_token"]
    assert (hit["document_id"], hit["title"], hit["version"]) == (document(shop.refund), "Refund policy", 1)
    assert hit["legs"] == {"lexical": 1, "vector": 1}
    (passage,) = hit["passages"]
    assert TEXT[passage["start"] : passage["end"]] == passage["text"]
    assert body["facets"]["kind"] == [{"value": "push", "count": 1}]
    assert set(body["timing_ms"]) == {"resolve", "lexical", "vector", "rerank", "guard", "total"}
    assert len(body["profile_digest"]) == 64
    nothing = (await ask("bob", "POST", SEARCH, {"query": "refund of a cruise", "facets": True})).json
    assert (nothing["hits"], nothing["facets"]) == ([], {"source": [], "kind": []})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": ""}, "invalid_query"),
        ({"query": " \n"}, "invalid_query"),
        # The common reader of bodies refuses a NUL anywhere; the rule of queries is tested below it.
        ({"query": "a\x00b"}, "invalid_request"),
        ({"query": "x" * 4_001}, "invalid_query"),
        ({"query": "x", "k": 0}, "invalid_request"),
        ({"query": "x", "k": 101}, "invalid_request"),
        ({"query": "x", "rerank": "model"}, "invalid_request"),
        ({"query": "x", "mode": "magic"}, "invalid_request"),
        ({"query": "x", "sources": ["src_nope"]}, "invalid_request"),
        ({"query": "x", "profile": "other"}, "invalid_request"),
        ({"query": "x", "updated_after": "yesterday"}, "invalid_request"),
        ({"query": "x", "at_least_as_fresh": "ct1.abc"}, "invalid_consistency_token"),
        ({"query": "x", "labels": {"a": "\x00"}}, "invalid_request"),
        ({"query": "x", "page": 2}, "unknown_field"),
    ],
)
async def test_bad_input_is_refused_by_name(shop, ask, body, code):
    answer = await ask("ann", "POST", SEARCH, body)
    assert (answer.status, answer.code) == (400, code)


async def test_the_longest_query_is_answered(shop, ask):
    assert (await ask("ann", "POST", SEARCH, {"query": "refund " * 571})).status == 200
    assert (await ask("ann", "POST", SEARCH, {"query": "\u0130\ufb03 \U0001f600 \u202e" * 200})).status == 200


async def test_somebody_else_is_searched_as_only_with_the_right_to(shop, ask):
    ann = f"user:{format_id('usr', shop.people['ann'])}"
    body = {"query": "refund", "principal": ann}
    assert (await ask("bob", "POST", SEARCH, body)).code == "delegation_denied"
    assert (await ask("bob", "POST", SEARCH, {**body, "principal": "user:nobody@x"})).code == "delegation_denied"
    # The view is that of the named principal alone, never united with the caller's.
    await shop.document("Refunds for bob alone.", shop.acl("bob"))
    seen = (await ask("bob", "POST", SEARCH, body, may=(READ, DELEGATE))).json
    assert [hit["document_id"] for hit in seen["hits"]] == [document(shop.refund)]
    for unknown in ("user:nobody@x", "group:none", "martian", "user:", "ext:src_x:a:b"):
        other = {**body, "principal": unknown}
        assert (await ask("bob", "POST", SEARCH, other, may=(READ, DELEGATE))).code == "principal_not_found"
    own = {"query": "refund", "principal": ann}
    assert (await ask("ann", "POST", SEARCH, own)).status == 200
    group = {"query": "refund", "principal": "group:g-support"}
    assert len((await ask("bob", "POST", SEARCH, group, may=(READ, DELEGATE))).json["hits"]) == 1
    assert (await ask("bob", "POST", SEARCH, {**body, "principal": "everyone"}, may=(READ, DELEGATE))).json[
        "hits"
    ] == []


async def test_a_key_without_the_scope_may_not_search(shop, ask):
    assert (await ask("ann", "POST", SEARCH, {"query": "x"}, may=("inference",))).status == 403


async def test_an_answer_is_quoted_word_for_word_and_verifies(shop, ask):
    answer = (await ask("ann", "POST", ANSWERS, {"query": "how long do refunds of a cruise take?"})).json
    assert (answer["abstained"], answer["mode"], answer["answer"]) == (
        False, "extractive", "Refunds of a cruise take thirty days.",
    )  # fmt: skip
    (cited,) = answer["citations"]
    assert TEXT[cited["start"] : cited["end"]] == cited["quote"]
    assert cited["quote_sha256"] == hashlib.sha256(cited["quote"].encode()).hexdigest()
    (sentence,) = answer["sentences"]
    assert answer["answer"][sentence["start"] : sentence["end"]] == cited["quote"]
    claim = {name: cited[name] for name in ("document_id", "version", "start", "end", "quote_sha256")}
    verify = "/v1/retrieval/citations:verify"
    claims = [
        claim, {**claim, "start": claim["start"] + 1}, {**claim, "version": 2}, {**claim, "document_id": "doc_none"},
        {**claim, "version": 2**40}, {**claim, "end": 2**40}, {**claim, "start": -5},
    ]  # fmt: skip
    results = (await ask("ann", "POST", verify, {"citations": claims})).json["results"]
    assert [each["reason"] for each in results] == [
        None, "mismatch", "not_found", "not_found", "not_found", "mismatch", "mismatch",
    ]  # fmt: skip
    unseen = (await ask("bob", "POST", verify, {"citations": [claim]})).json["results"]
    assert unseen == [{"verified": False, "reason": "not_found"}]
    too_many = await ask("ann", "POST", verify, {"citations": [claim] * 101})
    assert too_many.code == "invalid_request"


async def test_what_cannot_be_answered_is_not(shop, ask):
    for who, query in (("ann", "who won the football cup?"), ("bob", "how long do refunds of a cruise take?")):
        answer = (await ask(who, "POST", ANSWERS, {"query": query})).json
        assert (answer["abstained"], answer["answer"], answer["citations"]) == (True, None, [])
        assert answer["abstain_reason"] == "no_support"


async def test_a_generated_answer_is_refused_and_never_replaced(shop, ask):
    body = {"query": "refund", "mode_answer": "generative"}
    assert (await ask("ann", "POST", ANSWERS, body)).code == "invalid_request"
    assert (await ask("ann", "POST", ANSWERS, {"query": "x", "max_sentences": 0})).code == "invalid_request"


async def test_a_publishers_wish_keeps_a_text_out_of_answers(world, ask):
    await world.user("ann")
    wishes = [{"noai": "1"}, {"ai_input": "no"}, {"tdm_reservation": "1"}]
    for wish in wishes:
        signals = json.dumps({name: {"value": value, "origin": "meta"} for name, value in wish.items()})
        await world.document("Refunds take thirty days.", world.acl("ann"), signals=signals)
    assert len((await ask("ann", "POST", SEARCH, {"query": "refund"})).json["hits"]) == 3
    assert (await ask("ann", "POST", ANSWERS, {"query": "how long do refunds take?"})).json["abstained"]
    short = await world.document("Refunds take thirty days. Refunds are slow.", world.acl("ann"), snippet_chars_max=30)
    answer = (await ask("ann", "POST", ANSWERS, {"query": "how long do refunds take?"})).json
    assert {(each["document_id"], each["quote"]) for each in answer["citations"]} == {
        (document(short), "Refunds take thirty days.")
    }


async def test_an_answer_streams_its_pieces_in_order(shop, ask):
    body = {"query": "how long do refunds of a cruise take?", "stream": True}
    answer = await ask("ann", "POST", ANSWERS, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = SseParser().feed(answer.content)
    assert [each.event for each in events] == ["hits", "sentence", "citation", "done"]
    assert [each.id for each in events] == ["1", "2", "3", "4"]
    done = json.loads(events[-1].data)
    assert done["answer"] == json.loads(events[1].data)["text"] == "Refunds of a cruise take thirty days."


async def test_a_source_revoked_while_it_streams_ends_the_stream(shop, ask, service, monkeypatch):
    still, calls = type(service.parts.emitter).still, []

    async def revoking(self, *args):
        calls.append(1)
        if len(calls) == 2:
            await shop.leave("g-support", "ann")
        return await still(self, *args)

    monkeypatch.setattr(type(service.parts.emitter), "still", revoking)
    body = {"query": "how long do refunds of a cruise take?", "stream": True}
    events = SseParser().feed((await ask("ann", "POST", ANSWERS, body)).content)
    assert [each.event for each in events] == ["hits", "error"]
    assert json.loads(events[-1].data)["error"]["code"] == "sources_revoked"


@pytest.mark.parametrize(("times", "answered"), [(1, True), (2, False)])
async def test_a_source_lost_while_answering_is_left_out_by_one_rerun(shop, ask, service, monkeypatch, times, answered):
    """Twice is too often: the caller is told to ask again."""
    other = await shop.document("Refunds of a cruise take ninety days.", shop.acl("ann"))
    leave, calls = type(service.parts.emitter).leave, []

    async def revoking(self, scope, leaving):
        calls.append(1)
        if len(calls) == 1:
            await shop.leave("g-support", "ann")
        elif times == 2:
            await shop.sql("UPDATE retrieval_documents SET state = 'deleted' WHERE id = $1", other)
            await shop.epoch()
        return await leave(self, scope, leaving)

    monkeypatch.setattr(type(service.parts.emitter), "leave", revoking)
    answer = await ask("ann", "POST", ANSWERS, {"query": "how long do refunds of a cruise take?"})
    if answered:
        assert [each["document_id"] for each in answer.json["citations"]] == [document(other)]
    else:
        assert (answer.status, answer.code) == (409, "sources_revoked")


async def test_why_names_the_path_now_and_then(shop, ask):
    before = (await ask("ann", "POST", SEARCH, {"query": "refund"})).json["epoch"]
    body = {"principal": f"user:{format_id('usr', shop.people['ann'])}", "document_id": document(shop.refund)}
    now = (await ask("bob", "POST", EXPLAINED, body, may=(EXPLAIN,))).json
    (reason,) = now["reasons"]
    names = [body["principal"], f"group:{format_id('grp', shop.people['g-support'])}"]
    assert (now["eligible"], now["live_now"], now["at_epoch"]) == (True, True, before)
    assert (reason["rule"], reason["path"], reason["clause"]) == ("allow_clause", names, [names[1]])
    await shop.leave("g-support", "ann")
    after = (await ask("bob", "POST", EXPLAINED, body, may=(EXPLAIN,))).json
    assert (after["eligible"], after["live_now"]) == (False, False)
    assert after["reasons"][0]["rule"] == "no_clause"
    assert after["reasons"][0]["path"] == [body["principal"]]
    then = (await ask("bob", "POST", EXPLAINED, {**body, "at": before}, may=(EXPLAIN,))).json
    assert (then["eligible"], then["live_now"], then["reasons"]) == (True, False, now["reasons"])
    future = await ask("bob", "POST", EXPLAINED, {**body, "at": 10**6}, may=(EXPLAIN,))
    assert future.code == "invalid_request"
    (row,) = await shop.sql("SELECT count(*) FROM audit_events WHERE action = 'retrieval.explain'")
    assert row["count"] == 3


async def test_why_tells_deny_quarantine_and_what_never_was(shop, ask):
    denied = await shop.document("Denied.", shop.acl("everyone", deny=["g-support"]))
    bare = await shop.document("Bare.", AccessList(()), state="quarantined")
    principal = f"user:{format_id('usr', shop.people['ann'])}"

    async def why(identity):
        body = {"principal": principal, "document_id": identity}
        return await ask("bob", "POST", EXPLAINED, body, may=(EXPLAIN,))

    (reason,) = (await why(document(denied))).json["reasons"]
    assert (reason["rule"], len(reason["path"])) == ("deny", 2)
    assert (await why(document(bare))).json["reasons"][0]["rule"] == "no_acl"
    for unknown in (document(shop.scope.principal.id), "doc_", "nonsense"):
        answer = await why(unknown)
        assert (answer.status, answer.code) == (404, "document_not_found")
    body = {"principal": "user:martian@x", "document_id": document(denied)}
    assert (await ask("bob", "POST", EXPLAINED, body, may=(EXPLAIN,))).code == "principal_not_found"
    assert (await ask("bob", "POST", EXPLAINED, body)).status == 403


async def test_a_recorded_search_is_laid_out_step_by_step(shop, ask):
    for number in range(3):
        await shop.document(f"Refund {number}.", shop.acl("ann"))
    hidden = await shop.document("Refund hidden.", shop.acl("bob"))
    found = (await ask("ann", "POST", SEARCH, {"query": "refund", "k": 2})).json
    path = f"{EXPLAINED}?request_id={found['request_id']}"
    told = (await ask("bob", "GET", path, may=(EXPLAIN,))).json
    assert (told["plan"], told["eligible_chunks"], told["eligible_documents"]) == ("exact", 4, 4)
    assert [each["document_id"] for each in told["emitted"]] == [hit["document_id"] for hit in found["hits"]]
    assert {each["rank"] for each in told["candidates"]["lexical"]} == {1, 2, 3, 4}
    assert {each["reason"] for each in told["dropped"]} == {"outranked"}
    assert len(told["dropped"]) == 2
    assert document(hidden) not in json.dumps(told)
    assert "Refund" not in json.dumps(told)
    listed = []
    cursor = ""
    while cursor is not None:
        page = (await ask("bob", "GET", f"{told['eligible_url']}&limit=3{cursor}", may=(EXPLAIN,))).json
        listed += page["data"]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert len(listed) == len(set(listed)) == 4
    assert document(hidden) not in listed
    one = (await ask("bob", "GET", f"{path}&document_id={document(shop.refund)}", may=(EXPLAIN,))).json
    assert {each["document_id"] for each in one["fused"]} == {document(shop.refund)}
    for unknown in ("req_none", format_id("req", shop.refund), ""):
        answer = await ask("bob", "GET", f"{EXPLAINED}?request_id={unknown}", may=(EXPLAIN,))
        assert (answer.status, answer.code) == (404, "request_not_found")


async def test_the_story_of_a_search_tells_its_steps(shop, ask):
    answer = await ask("ann", "POST", SEARCH, {"query": "refund"})
    story = ControlStory.from_header(answer.headers[STORY_HEADER])
    assert [each.step for each in story.decisions if each.rule.startswith("retrieval.")][-9:] == [
        "freshness.check", "principal.resolve", "plan.choose", "lexical.candidates", "vector.candidates", "fuse",
        "rerank", "guard.check", "emit",
    ]  # fmt: skip
    assert "refund" not in str(story.decisions)


def test_a_query_with_a_nul_is_no_query():
    assert query_problem(SearchQuery("a\x00b")) == ("invalid_query", "A query has no NUL.")
