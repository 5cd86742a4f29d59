"""Self-hosted engines under a flood: who is over its share hears early when to come back, who is not waits in time."""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from examples.shop.client import Answer, Platform
from examples.shop.steps.kit import Shop, Shown, chat, require, story_of

LOAD: Final = 3.0
# Prompts are as long as the engine reads in this time, so that the flood is as wide on any machine.
PROMPT_S: Final = 0.6
PROMPT_TOKENS_MIN: Final = 40
# A tenant's demand counts over ten seconds: a burst is known as a flood after a few of them, and what was promised to
# it before is read within one objective.
FLOOD_OBJECTIVES: Final = 2.0
ASKED_AT: Final = (0.0, 0.65, 0.8, 1.0)
EARLY_MS: Final = 50
WARM_UP: Final = 2
WARM_UP_TOKENS: Final = 320
JUDGED: Final = 5
REFUSALS: Final = frozenset({"deadline_infeasible", "fair_share_exceeded", "displaced"})
AT_ARRIVAL: Final = REFUSALS - {"displaced"}
TOLD: Final = frozenset({"arrived", "predicted", "granted", "first_token", "settled"})
TOLD_WAIT_S: Final = 60.0
LINE: Final = "Tent {number}: blue, dry."
# What the front door takes a line for, about.
LINE_TOKENS: Final = 6


@dataclass(frozen=True, slots=True)
class _Pace:
    objective_s: float
    prompt_tokens: int
    flood_s: float
    count: int


def burst_from_two_tenants(shop: Shop) -> Shown:
    """One tenant sends three times what the engine reads; the other one's questions are answered in their objective."""
    heavy, light = Platform(shop.url, shop.keys["storefront"]["key"]), shop.desk()
    pace = _measured(shop, heavy)
    with ThreadPoolExecutor(pace.count) as pool:
        calls = [pool.submit(_flood, heavy, number, pace) for number in range(pace.count)]
        asked = _ask_meanwhile(light, pace)
        answers = [each.result() for each in calls]
    refused = [each for each in answers if each.status == 429]
    codes = {each.error.get("code") for each in refused}
    require(refused and codes <= REFUSALS, f"the flood is refused for load ({sorted(map(str, codes))})", answers[0])
    require(len(refused) + sum(each.status == 200 for each in answers) == pace.count, "only 200 and 429", answers[0])
    for each in refused:
        told = each.body["interlock"]
        require(told["retry_after_s"] > 0 and told["fits"] and "predicted_ttft_ms" in told, "a refusal is honest", each)
    early_ms = _early_ms(heavy, refused)
    slowest_ms = max(_first_token_ms(light, each, pace) for each in asked)
    figure = (
        f"{len(refused)} of {pace.count} refused, each within {early_ms:.0f} ms in the middle; "
        f"the other tenant's first token after at most {slowest_ms:.0f} of {pace.objective_s * 1000:.0f} ms"
    )
    return Shown(figure, refused[0].request_id)


def _measured(shop: Shop, heavy: Platform) -> _Pace:
    """Have the pool measure how fast its engine reads, and return the flood that is three times that."""
    for number in range(WARM_UP):
        warm = heavy.call("POST", "/v1/chat/completions", _long(number, WARM_UP_TOKENS))
        require(warm.status == 200, "an idle pool answers", warm)
    status = shop.owner.call("GET", "/admin/v1/pools/embedded/status")
    require(status.status == 200 and status.body["engines"], "the pool tells what it holds", status)
    objective_s = status.body["objectives"]["interactive"]["ttft_ms"] / 1_000
    tokens = max(PROMPT_TOKENS_MIN, round(PROMPT_S * status.body["engines"][0]["prefill_tps"]))
    flood_s = FLOOD_OBJECTIVES * objective_s
    return _Pace(objective_s, tokens, flood_s, round(LOAD * flood_s / PROMPT_S))


def _flood(heavy: Platform, number: int, pace: _Pace) -> Answer:
    time.sleep(pace.flood_s * number / pace.count)
    return heavy.call("POST", "/v1/chat/completions", _long(WARM_UP + number, pace.prompt_tokens))


def _long(number: int, tokens: int) -> dict[str, Any]:
    """Return a chat whose prompt no other one shares."""
    lines = [LINE.format(number=number * 100 + at) for at in range(max(1, tokens // LINE_TOKENS))]
    return chat("Sum this up. " + " ".join(lines), 4)


def _ask_meanwhile(light: Platform, pace: _Pace) -> list[Answer]:
    began, asked = time.perf_counter(), []
    for share in ASKED_AT:
        time.sleep(max(0.0, began + share * pace.flood_s - time.perf_counter()))
        asked.append(_ask(light))
    return asked


def _ask(light: Platform) -> Answer:
    """Ask one short question and read the whole stream."""
    answer, events = light.stream("/v1/chat/completions", chat("Say hello.", 4) | {"stream": True})
    require(answer.status == 200, "the other tenant is served", answer)
    words = [each for each in events if each.text != "[DONE]" and json.loads(each.text)["choices"]]
    require(words, "the other tenant's answer has words", answer)
    return answer


def _early_ms(heavy: Platform, refused: list[Answer]) -> float:
    """Return what the platform took for a refusal at arrival, the median of some of them, by its own clock."""
    at_arrival = [each for each in refused if each.error["code"] in AT_ARRIVAL]
    require(at_arrival, "some are refused at arrival", refused[0])
    took_ms = [story_of(heavy, each.request_id)["timing"]["total_ms"] for each in at_arrival[:JUDGED]]
    early_ms = statistics.median(took_ms)
    require(early_ms <= EARLY_MS, f"refusals come early (took {took_ms} ms)", at_arrival[0])
    return early_ms


def _first_token_ms(light: Platform, asked: Answer, pace: _Pace) -> float:
    """Return when a first token came, by a story that tells its whole way through the pool."""
    deadline = time.perf_counter() + TOLD_WAIT_S
    while True:
        # What a grant came to is added to the story a moment after the answer.
        story = story_of(light, asked.request_id)
        steps = {each["rule"] for each in story["decisions"] if each["step"] == "grant"}
        if steps >= TOLD or time.perf_counter() > deadline:
            break
        time.sleep(0.1)
    require(steps >= TOLD, f"the story tells the way (has {sorted(steps)})", asked)
    first_ms = float(story["timing"]["ttft_ms"])
    require(first_ms <= pace.objective_s * 1_000, f"a first token is in its objective, not after {first_ms} ms", asked)
    return first_ms
