"""The company's documents: the same question from two people, and what they see when something is taken away."""

import json
from typing import Any, Final

from examples.shop.client import Answer, Platform
from examples.shop.documents import Document, documents
from examples.shop.steps.kit import Shop, Shown, require, story_of

SEED: Final = 1
BATCH: Final = 100
SOURCE: Final = "company documents"
AGENT: Final = "user:agent@fernway.example"
CLERK: Final = "user:payroll@fernway.example"
QUESTION: Final = "On which day are salaries paid?"
FORBIDDEN: Final = "27th"
SCOPES: Final = (
    "retrieval:read", "retrieval:write", "retrieval:admin", "retrieval:delegate", "retrieval:explain", "requests:read",
    "admin:read", "admin:write",
)  # fmt: skip


def answer_two_people(shop: Shop) -> Shown:
    """Push every document with its readers; one question gets two answers, each from what its reader may see."""
    librarian = _librarian(shop)
    pushed = _push(shop, librarian)
    clerk, agent = _ask(librarian, CLERK), _ask(librarian, AGENT)
    require(FORBIDDEN in (clerk.body["answer"] or ""), "the payroll clerk is told the day", clerk)
    _verify(librarian, clerk, CLERK)
    counts = [_eligible(librarian, each) for each in (agent, clerk)]
    require(counts[0] != counts[1], f"the two see different documents, and not {counts}")
    for told in (agent.body, _explained(librarian, agent), story_of(librarian, agent.request_id)):
        require(FORBIDDEN not in json.dumps(told), "nothing of it is in the agent's answer or its trace", agent)
    other = _ask(librarian, AGENT, "How long may a customer take to return an article?")
    require(not other.body["abstained"], "the agent is answered from what support may read", other)
    _verify(librarian, other, AGENT)
    shown = f"{pushed} documents; {counts[0]} eligible for the agent, {counts[1]} for the clerk"
    return Shown(f"{shown}; {len(other.body['citations'])} citations verify", clerk.request_id)


def take_away_and_ask_again(shop: Shop) -> Shown:
    """Who leaves a group and what is deleted are gone at the very next query."""
    librarian = _librarian(shop)
    before = _found(librarian, "refund of order", AGENT)
    private = [hit for hit in before if "returns/" in hit["uri"]]
    require(private, "the agent finds return notes of support")
    left = librarian.call("DELETE", f"/admin/v1/groups/support/members/{AGENT}")
    require(left.status == 200, "the agent leaves support", left)
    after = _found(librarian, "refund of order", AGENT, left.body["consistency_token"])
    require(not any("returns/" in hit["uri"] for hit in after), "and finds none of them at the next query")
    back = librarian.call("PUT", f"/admin/v1/groups/support/members/{AGENT}")
    require(back.status == 200, "the agent comes back", back)
    again = _found(librarian, "refund of order", AGENT, back.body["consistency_token"])
    require([hit["document_id"] for hit in again] == [hit["document_id"] for hit in before], "and finds the same")
    gone = librarian.call("DELETE", f"/v1/retrieval/documents/{private[0]['document_id']}")
    require(gone.status == 200, "a document is deleted", gone)
    last = _found(librarian, "refund of order", AGENT, gone.body["consistency_token"])
    require(private[0]["document_id"] not in [hit["document_id"] for hit in last], "and is gone at the next query")
    return Shown(f"{len(private)} of {len(before)} hits gone with the group, 1 with its document", gone.request_id)


def _librarian(shop: Shop) -> Platform:
    """Return the platform as the program that brings the documents in; it may look as anybody."""
    if "librarian" not in shop.keys:
        within = {"organization_id": shop.organization_id}
        workspace = shop.workspaces["support-desk"]
        account = {"name": f"librarian {shop.run}", "workspace_id": workspace, **within}
        made = shop.owner.call("POST", "/admin/v1/service-accounts", account)
        require(made.status == 201, "a service account is made", made)
        member = {"principal": f"sa:{made.body['id']}", "role": "admin", **within}
        require(shop.owner.call("POST", "/admin/v1/memberships", member).status == 201, "it is an admin of the company")
        body = {"workspace_id": workspace, "scopes": list(SCOPES), "service_account": made.body["id"], **within}
        key = shop.owner.call("POST", "/admin/v1/keys", body | {"name": "librarian"})
        require(key.status == 201, "it has a key", key)
        shop.keys["librarian"] = key.body
    return Platform(shop.url, shop.keys["librarian"]["key"])


def _push(shop: Shop, librarian: Platform) -> int:
    made = librarian.call("POST", "/v1/retrieval/sources", {"name": f"{SOURCE} {shop.run}", "kind": "push"})
    require(made.status == 201, "a source is made", made)
    every = documents(SEED)
    for start in range(0, len(every), BATCH):
        items = [_item(each) for each in every[start : start + BATCH]]
        body = {"source": made.body["id"], "documents": items}
        stored = librarian.call("POST", "/v1/retrieval/documents", body)
        require(stored.status == 200, "documents are stored", stored)
        statuses = {each["status"] for each in stored.body["results"]}
        require(statuses == {"created"}, f"all of them, and not {statuses}", stored)
    return len(every)


def _item(document: Document) -> dict[str, Any]:
    allow = ["everyone" if reader == "public" else f"group:{reader}" for reader in document.readers]
    return {
        "external_id": document.path, "title": document.title, "text": document.text, "uri": f"shop://{document.path}",
        "media_type": "text/markdown", "acl": {"allow": allow},
    }  # fmt: skip


def _ask(librarian: Platform, principal: str, question: str = QUESTION) -> Answer:
    answer = librarian.call("POST", "/v1/retrieval/answers", {"query": question, "principal": principal})
    require(answer.status == 200, f"{principal} is answered", answer)
    return answer


def _verify(librarian: Platform, answer: Answer, principal: str) -> None:
    fields = ("document_id", "version", "start", "end", "quote_sha256")
    claims = [{field: each[field] for field in fields} for each in answer.body["citations"]]
    body = {"principal": principal, "citations": claims}
    checked = librarian.call("POST", "/v1/retrieval/citations:verify", body)
    require(claims and checked.status == 200, "citations are checked", checked)
    require(all(each["verified"] for each in checked.body["results"]), "and every one holds", checked)


def _explained(librarian: Platform, answer: Answer) -> dict[str, Any]:
    told = librarian.call("GET", f"/v1/retrieval/explain?request_id={answer.request_id}")
    require(told.status == 200, "the search is explained", told)
    return dict(told.body)


def _eligible(librarian: Platform, answer: Answer) -> int:
    return int(_explained(librarian, answer)["eligible_documents"])


def _found(librarian: Platform, query: str, principal: str, token: str | None = None) -> list[dict[str, Any]]:
    body = {"query": query, "principal": principal, "k": 20, "mode": "lexical", "at_least_as_fresh": token}
    found = librarian.call("POST", "/v1/retrieval/search", body)
    require(found.status == 200, f"{principal} searches", found)
    return list(found.body["hits"])
