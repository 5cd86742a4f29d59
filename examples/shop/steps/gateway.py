"""The front door: answers, streams, limits, refusals with a story, switches."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from examples.shop.client import Answer, Platform
from examples.shop.steps.kit import Shop, Shown, chat, engineer_of, require, story_of

KILL_WAIT_S: Final = 1.0
BURST_CALLS: Final = 12
BURST_RPM: Final = 5
QUESTION: Final = "In one short sentence: may a customer return a tent that was pitched once?"


def answer_a_question(shop: Shop) -> Shown:
    """A real model answers through the front door, and the answer's id opens a complete story."""
    asked = shop.desk().call("POST", "/v1/chat/completions", chat(QUESTION, 40))
    require(asked.status == 200, "the model answers", asked)
    tokens = asked.body["usage"]["completion_tokens"]
    require(tokens > 0 and asked.body["choices"][0]["message"]["content"].strip(), "the answer has words", asked)
    story = story_of(shop.desk(), asked.request_id)
    steps = {decision["step"] for decision in story["decisions"]}
    require(
        {"authenticated", "route", "grant", "finished"} <= steps,
        f"the story tells the way (has {sorted(steps)})",
        asked,
    )
    return Shown(f"{tokens} tokens, story of {len(story['decisions'])} decisions", asked.request_id)


def stream_an_answer(shop: Shop) -> Shown:
    """The same, streamed in the other dialect: events in order, usage at the end, the time to the first token."""
    answer, events = shop.desk().stream("/v1/messages", chat(QUESTION, 40) | {"stream": True})
    require(answer.status == 200 and events, "the stream opens", answer)
    told = [(json.loads(event.text), event.at_s) for event in events]
    order = [event["type"] for event, _ in told if event["type"] != "ping"]
    words = [(event, at_s) for event, at_s in told if event["type"] == "content_block_delta"]
    expected = ["message_start", "content_block_start", *["content_block_delta"] * len(words)]
    expected += ["content_block_stop", "message_delta", "message_stop"]
    require(len(words) > 1 and order == expected, f"the events come in order (came {order[:3]}..{order[-3:]})", answer)
    require("".join(event["delta"]["text"] for event, _ in words).strip() != "", "the answer has words", answer)
    last = next(event for event, _ in told if event["type"] == "message_delta")
    used = last["usage"]["output_tokens"]
    require(
        used > 0 and last["delta"]["stop_reason"] in {"end_turn", "max_tokens"}, "usage and finish are told", answer
    )
    story = story_of(shop.desk(), answer.request_id)
    require(story["dialect"] == "anthropic" and story["usage"]["output_tokens"] == used, "the story agrees", answer)
    first_ms = words[0][1] * 1000
    return Shown(f"{len(words)} events, {used} tokens, first token after {first_ms:.0f} ms", answer.request_id)


def burst_over_a_limit(shop: Shop) -> Shown:
    """A burst over five requests a minute: refusals name the rule and the wait, and the wait is true."""
    workspace = shop.workspaces["engineering"]
    made = shop.owner.call("POST", "/admin/v1/keys", {"workspace_id": workspace, "name": f"burst {shop.run}"})
    require(made.status == 201, "a key for the burst is made", made)
    limit = {"scope": "key", "target": made.body["id"], "dimension": "requests_per_minute", "limit": BURST_RPM}
    limited = engineer_of(shop).call("POST", "/admin/v1/limits", limit | {"model": "*"})
    require(limited.status == 201, "the limit is set", limited)
    burst = Platform(shop.url, made.body["key"])
    time.sleep(KILL_WAIT_S)
    with ThreadPoolExecutor(BURST_CALLS) as pool:
        answers = list(pool.map(lambda _: _ask(burst), range(BURST_CALLS)))
    refused = [each for each in answers if each.status == 429]
    served = [each for each in answers if each.status == 200]
    require(len(served) + len(refused) == BURST_CALLS, "only 200 and 429", next(iter(answers)))
    require(
        BURST_RPM <= len(served) <= BURST_RPM + 1 and refused,
        f"{BURST_RPM} a minute are served, not {len(served)} ({sorted({each.error['code'] for each in refused})})",
    )
    for each in refused:
        named = each.body["interlock"]
        require(
            named["rule"] and named["limit"] == BURST_RPM and each.headers["retry-after"], "the rule is named", each
        )
    wait_s = min(int(each.headers["retry-after-ms"]) for each in refused) / 1000
    time.sleep(wait_s)
    again = _ask(burst)
    require(again.status == 200, f"after {wait_s:.1f} s the call is served", again)
    shop.refused["429"] = refused[0].request_id
    shop.keys["burst"] = made.body
    return Shown(f"{len(served)} served, {len(refused)} refused, served after {wait_s:.1f} s", refused[0].request_id)


def _ask(burst: Platform) -> Answer:
    return burst.call("POST", "/v1/chat/completions", chat("Hi", 1))


def open_the_stories_of_refusals(shop: Shop) -> Shown:
    """A wrong key, an unknown model and the refusal of the burst: each has a complete story with its rule."""
    stranger = Platform(shop.url, "not-a-key").call("POST", "/v1/chat/completions", chat("Hi", 1))
    require(stranger.status == 401, "a wrong key is refused", stranger)
    nowhere = shop.desk().call("POST", "/v1/chat/completions", chat("Hi", 1) | {"model": "no-such-model"})
    require(nowhere.status == 404, "an unknown model is refused", nowhere)
    engineering = Platform(shop.url, shop.keys["engineering"]["key"])
    readers = {stranger.request_id: shop.owner, nowhere.request_id: shop.desk(), shop.refused["429"]: engineering}
    rules = []
    for request_id, reader in readers.items():
        story = story_of(reader, request_id)
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
    on = engineer_of(shop).call("POST", "/admin/v1/kill-switches", body)
    require(on.status == 201, "the switch is on", on)
    killed = shop.desk().call("POST", "/v1/chat/completions", chat("Hi", 1))
    seconds = time.perf_counter() - began
    require(killed.status == 503 and killed.error["code"] == "killed", "the desk is refused", killed)
    require(seconds <= KILL_WAIT_S, f"refused within a second, not {seconds:.2f}", killed)
    off = engineer_of(shop).call("DELETE", f"/admin/v1/kill-switches/{on.body['id']}", {"reason": "tour: mended"})
    require(off.status == 200, "the switch is off", off)
    story = story_of(shop.desk(), killed.request_id)
    told = json.dumps(story["decisions"])
    require("tour: bad answers" in told and on.body["id"] in told, "the story says which switch and why", killed)
    alive = shop.desk().call("POST", "/v1/chat/completions", chat("Hi", 1))
    require(alive.status == 200, "the desk is served again", alive)
    return Shown(
        f"refused after {seconds * 1000:.0f} ms, propagation {on.body['propagation_ms']} ms", killed.request_id
    )
