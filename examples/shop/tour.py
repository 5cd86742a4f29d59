"""The tour of `make demo`: each step is made of public HTTP calls on the demo shop and is verified, or fails.

Holds no knowledge of the inside: what it asserts, any caller could.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from examples.shop.client import Answer, Platform
from examples.shop.staff import GROUPS, ORGANIZATION, PEOPLE, WORKSPACES

STORY_WAIT_S = 2.0
KILL_WAIT_S = 1.0
BURST_CALLS = 12
BURST_RPM = 5
QUESTION = "In one short sentence: may a customer return a tent that was pitched once?"


class UnverifiedError(Exception):
    """A step did something else than the tour expects; `request_id` opens its story."""

    def __init__(self, why: str, request_id: str = "") -> None:
        self.request_id = request_id
        super().__init__(why)


@dataclass(slots=True)
class Shop:
    """What earlier steps made and later steps use."""

    owner: Platform
    url: str
    run: str
    organization_id: str = ""
    workspaces: dict[str, str] = field(default_factory=dict)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    engineer: Platform | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def desk(self) -> Platform:
        """The platform as the support desk's own key sees it."""
        return Platform(self.url, self.keys["support-desk"]["key"])


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcome of a verified step: a figure for the reader and the id to follow."""

    figure: str
    id: str


Step = Callable[[Shop], Shown]


def require(condition: object, why: str, answer: Answer | None = None) -> None:
    """Fail the step unless the condition holds."""
    if not condition:
        got = f" (got {answer.status} {json.dumps(answer.body)[:300]})" if answer else ""
        raise UnverifiedError(why + got, answer.request_id if answer else "")


def set_up_the_company(shop: Shop) -> Shown:
    """Organization, workspaces, people, nested groups and keys; a replay gives the same ids."""
    organization = _ensure(shop, "organizations", {"name": ORGANIZATION, "tier": "demo"})
    shop.organization_id = organization["id"]
    within = {"organization_id": shop.organization_id}
    for name in WORKSPACES:
        shop.workspaces[name] = _ensure(shop, "workspaces", {"name": name, **within})["id"]
    for person in PEOPLE:
        user = _ensure(shop, "users", {"email": person.email, "name": person.name, **within}, by="email")
        workspace = shop.workspaces[person.workspace] if person.workspace else None
        member = {"principal": user["id"], "role": person.role, "workspace_id": workspace, **within}
        _ensure(shop, "memberships", member, by="id")
    groups = {name: _ensure(shop, "groups", {"name": name, **within})["id"] for name in GROUPS}
    for name, members in GROUPS.items():
        for member in members:
            kind, _, who = member.partition(":")
            target = f"group:{groups[who]}" if kind == "group" else member
            added = shop.owner.call("PUT", f"/admin/v1/groups/{groups[name]}/members/{target}")
            require(added.status == 200, f"{member} joins {name}", added)
    for name, workspace in shop.workspaces.items():
        body = {"workspace_id": workspace, "name": f"tour {shop.run}", "scopes": ["inference", "requests:read"]}
        made = shop.owner.call("POST", "/admin/v1/keys", body, idempotency_key=f"tour-key-{name}-{shop.run}")
        require(made.status == 201, "a key is made", made)
        again = shop.owner.call("POST", "/admin/v1/keys", body, idempotency_key=f"tour-key-{name}-{shop.run}")
        require(again.status == 201 and again.body["id"] == made.body["id"], "a replay gives the same key", again)
        shop.keys[name] = made.body
    shop.engineer = _platform_engineer(shop)
    people, count = len(PEOPLE), len(GROUPS)
    return Shown(f"3 workspaces, {people} people, {count} groups, 4 keys, replay equal", shop.organization_id)


def _platform_engineer(shop: Shop) -> Platform:
    """Give the company's own platform engineer a key: limits and switches are hers, not the operator's."""
    within = {"organization_id": shop.organization_id}
    account = {"name": f"platform engineer {shop.run}", "workspace_id": shop.workspaces["engineering"], **within}
    made = shop.owner.call("POST", "/admin/v1/service-accounts", account)
    require(made.status == 201, "a service account is made", made)
    member = {"principal": f"sa:{made.body['id']}", "role": "admin", **within}
    require(shop.owner.call("POST", "/admin/v1/memberships", member).status == 201, "it is an admin of the company")
    scopes = ["admin:read", "admin:write", "kill:write", "requests:read"]
    body = {"workspace_id": shop.workspaces["engineering"], "scopes": scopes, "service_account": made.body["id"]}
    key = shop.owner.call("POST", "/admin/v1/keys", body | {"name": "platform engineer", **within})
    require(key.status == 201, "it has a key", key)
    return Platform(shop.url, key.body["key"])


def _ensure(shop: Shop, kind: str, body: dict[str, Any], by: str = "name") -> dict[str, Any]:
    """Create an object, or find the one that an earlier tour on the same store made."""
    made = shop.owner.call("POST", f"/admin/v1/{kind}", body, idempotency_key=f"tour-{kind}-{json.dumps(body)}"[:255])
    if made.status == 409 and made.error.get("code") == "name_taken":
        organization = body.get("organization_id")
        suffix = f"&organization_id={organization}" if organization else ""
        listed = shop.owner.call("GET", f"/admin/v1/{kind}?limit=200{suffix}")
        found = [each for each in listed.body["data"] if each.get(by) == body.get(by)]
        require(found, f"an earlier {kind} is listed", listed)
        return dict(found[0])
    require(made.status == 201, f"{kind} answers 201", made)
    return dict(made.body)


def answer_a_question(shop: Shop) -> Shown:
    """A real model answers through the front door, and the answer's id opens a complete story."""
    asked = shop.desk().call("POST", "/v1/chat/completions", _chat(QUESTION, 40))
    require(asked.status == 200, "the model answers", asked)
    tokens = asked.body["usage"]["completion_tokens"]
    require(tokens > 0 and asked.body["choices"][0]["message"]["content"].strip(), "the answer has words", asked)
    story = _story(shop.desk(), asked.request_id)
    steps = {decision["step"] for decision in story["decisions"]}
    require(
        {"authenticated", "route", "grant", "finished"} <= steps,
        f"the story tells the way (has {sorted(steps)})",
        asked,
    )
    return Shown(f"{tokens} tokens, story of {len(story['decisions'])} decisions", asked.request_id)


def stream_an_answer(shop: Shop) -> Shown:
    """The same, streamed: events in order, usage at the end, the time to the first token."""
    body = _chat(QUESTION, 40) | {"stream": True, "stream_options": {"include_usage": True}}
    answer, events = shop.desk().stream("/v1/chat/completions", body)
    require(answer.status == 200 and events, "the stream opens", answer)
    require(events[-1].text == "[DONE]", "the stream ends with [DONE]", answer)
    chunks = [(json.loads(event.text), event.at_s) for event in events[:-1]]
    words = [
        (chunk, at_s) for chunk, at_s in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")
    ]
    finishes = [place for place, (chunk, _) in enumerate(chunks) if _finish(chunk)]
    usage = [chunk["usage"] for chunk, _ in chunks if chunk.get("usage")]
    require(len(words) > 1 and len(finishes) == 1, "words come one after the other, then one finish", answer)
    require(len(usage) == 1 and usage[0]["completion_tokens"] > 0, "the usage comes once", answer)
    _story(shop.desk(), answer.request_id)
    return Shown(f"{len(words)} events, first token after {words[0][1] * 1000:.0f} ms", answer.request_id)


def _finish(chunk: dict[str, Any]) -> str | None:
    return chunk["choices"][0].get("finish_reason") if chunk["choices"] else None


def burst_over_a_limit(shop: Shop) -> Shown:
    """A burst over five requests a minute: refusals name the rule and the wait, and the wait is true."""
    workspace = shop.workspaces["engineering"]
    made = shop.owner.call("POST", "/admin/v1/keys", {"workspace_id": workspace, "name": f"burst {shop.run}"})
    require(made.status == 201, "a key for the burst is made", made)
    limit = {"scope": "key", "target": made.body["id"], "dimension": "requests_per_minute", "limit": BURST_RPM}
    limited = _engineer(shop).call("POST", "/admin/v1/limits", limit | {"model": "*"})
    require(limited.status == 201, "the limit is set", limited)
    burst = Platform(shop.url, made.body["key"])
    time.sleep(KILL_WAIT_S)
    with ThreadPoolExecutor(BURST_CALLS) as pool:
        answers = list(
            pool.map(lambda _: burst.call("POST", "/v1/chat/completions", _chat("Hi", 1)), range(BURST_CALLS))
        )
    refused = [each for each in answers if each.status == 429]
    served = [each for each in answers if each.status == 200]
    require(len(served) + len(refused) == BURST_CALLS, "only 200 and 429", next(iter(answers)))
    require(
        BURST_RPM <= len(served) <= BURST_RPM + 1 and refused, f"{BURST_RPM} a minute are served, not {len(served)}"
    )
    for each in refused:
        named = each.body["interlock"]
        require(
            named["rule"] and named["limit"] == BURST_RPM and each.headers["retry-after"], "the rule is named", each
        )
    wait_s = min(int(each.headers["retry-after-ms"]) for each in refused) / 1000
    time.sleep(wait_s)
    again = burst.call("POST", "/v1/chat/completions", _chat("Hi", 1))
    require(again.status == 200, f"after {wait_s:.1f} s the call is served", again)
    shop.refused["429"] = refused[0].request_id
    shop.keys["burst"] = made.body
    return Shown(f"{len(served)} served, {len(refused)} refused, served after {wait_s:.1f} s", refused[0].request_id)


def open_the_stories_of_refusals(shop: Shop) -> Shown:
    """A wrong key, an unknown model and the refusal of the burst: each has a complete story with its rule."""
    stranger = Platform(shop.url, "not-a-key").call("POST", "/v1/chat/completions", _chat("Hi", 1))
    require(stranger.status == 401, "a wrong key is refused", stranger)
    nowhere = shop.desk().call("POST", "/v1/chat/completions", _chat("Hi", 1) | {"model": "no-such-model"})
    require(nowhere.status == 404, "an unknown model is refused", nowhere)
    engineering = Platform(shop.url, shop.keys["engineering"]["key"])
    readers = {stranger.request_id: shop.owner, nowhere.request_id: shop.desk(), shop.refused["429"]: engineering}
    rules = []
    for request_id, reader in readers.items():
        story = _story(reader, request_id)
        require(story["rule"] and story["decisions"], f"the story of {request_id} names its rule")
        rules.append(f"{story['status']} {story['rule']}")
    return Shown("; ".join(rules), stranger.request_id)


def kill_and_revive(shop: Shop) -> Shown:
    """A kill switch on the support desk: refused within a second, the story says who and why; then off again."""
    body = {
        "scope": "workspace",
        "target": shop.workspaces["support-desk"],
        "mode": "reject",
        "reason": "tour: bad answers",
    }
    began = time.perf_counter()
    on = _engineer(shop).call("POST", "/admin/v1/kill-switches", body)
    require(on.status == 201, "the switch is on", on)
    killed = shop.desk().call("POST", "/v1/chat/completions", _chat("Hi", 1))
    seconds = time.perf_counter() - began
    require(killed.status == 503 and killed.error["code"] == "killed", "the desk is refused", killed)
    require(seconds <= KILL_WAIT_S, f"refused within a second, not {seconds:.2f}", killed)
    off = _engineer(shop).call("DELETE", f"/admin/v1/kill-switches/{on.body['id']}", {"reason": "tour: mended"})
    require(off.status == 200, "the switch is off", off)
    story = _story(shop.desk(), killed.request_id)
    told = json.dumps(story["decisions"])
    require("tour: bad answers" in told and on.body["id"] in told, "the story says which switch and why", killed)
    alive = shop.desk().call("POST", "/v1/chat/completions", _chat("Hi", 1))
    require(alive.status == 200, "the desk is served again", alive)
    return Shown(
        f"refused after {seconds * 1000:.0f} ms, propagation {on.body['propagation_ms']} ms", killed.request_id
    )


def verify_the_audit_chain(shop: Shop) -> Shown:
    """Every change of the tour stands in an audit chain that verifies."""
    verified = shop.owner.call("POST", "/admin/v1/audit/verify", {})
    require(verified.status == 200 and verified.body["ok"] is True, "the chain verifies", verified)
    require(verified.body["events"] > len(PEOPLE), "the tour's changes are in it", verified)
    return Shown(
        f"{verified.body['events']} events of {verified.body['organizations']} organizations", verified.request_id
    )


STEPS: tuple[tuple[str, str, Step], ...] = (
    ("platform", "set up the company", set_up_the_company),
    ("gateway", "answer a question", answer_a_question),
    ("gateway", "stream an answer", stream_an_answer),
    ("gateway", "burst over a limit", burst_over_a_limit),
    ("gateway", "open the stories of refusals", open_the_stories_of_refusals),
    ("gateway", "kill switch on and off", kill_and_revive),
    ("platform", "verify the audit chain", verify_the_audit_chain),
)


def run(url: str, key: str, data: str) -> bool:
    """Run all steps, print a line for each, and return whether every one was verified."""
    shop = Shop(Platform(url, key), url, run=f"{time.time_ns() // 1_000_000:x}")
    began, verified = time.perf_counter(), 0
    for number, (system, what, step) in enumerate(STEPS, start=1):
        step_began = time.perf_counter()
        try:
            shown = step(shop)
        except (UnverifiedError, OSError, KeyError, ValueError) as error:
            _tell(number, "FAIL", system, f"{what}: {error!r}", step_began)
            _explain(getattr(error, "request_id", ""), data)
            continue
        verified += 1
        _tell(number, "ok", system, f"{what}: {shown.figure} id={shown.id}", step_began)
    print(f"demo: {verified} of {len(STEPS)} verified in {time.perf_counter() - began:.1f} s", flush=True)
    return verified == len(STEPS)


def _tell(number: int, word: str, system: str, text: str, began: float) -> None:
    millis = (time.perf_counter() - began) * 1000
    print(f"[{number}/{len(STEPS)}] {word} {system} {text} {millis:.0f} ms", flush=True)


def _explain(request_id: str, data: str) -> None:
    if request_id:
        subprocess.run([sys.executable, "-m", "interlock", "trace", request_id, "--data", data], check=False)  # noqa: S603 - our own command line


def _engineer(shop: Shop) -> Platform:
    if shop.engineer is None:
        raise UnverifiedError("the company has no platform engineer, as the first step failed")
    return shop.engineer


def _chat(text: str, max_tokens: int) -> dict[str, Any]:
    return {"model": "default", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}


def _story(reader: Platform, request_id: str) -> dict[str, Any]:
    """Return a story once it is complete, which it must be within two seconds."""
    deadline = time.perf_counter() + STORY_WAIT_S
    while True:
        told = reader.call("GET", f"/v1/requests/{request_id}")
        if told.status == 200 and told.body["complete"]:
            return dict(told.body)
        if time.perf_counter() > deadline:
            raise UnverifiedError(f"no complete story of {request_id} after {STORY_WAIT_S} s", request_id)
        time.sleep(0.05)
