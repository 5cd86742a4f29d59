"""Self-hosted engines under a flood: who is over its share hears early when to come back, who is not waits in time."""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from examples.shop.client import Answer, Platform
from examples.shop.steps.kit import Shop, Shown, chat, require, story_of

LOAD: Final = 3.0
CALLS_MIN: Final = 8
CALLS_MAX: Final = 120
PROMPT_TOKENS: Final = 320
EARLY_S: Final = 0.05
WARM_UP: Final = 3
REFUSALS: Final = frozenset({"deadline_infeasible", "fair_share_exceeded", "displaced"})
AT_ARRIVAL: Final = REFUSALS - {"displaced"}
LINE: Final = "Tent {number}: blue, dry."
# What the front door takes a line for, about.
LINE_TOKENS: Final = 6


def burst_from_two_tenants(shop: Shop) -> Shown:
    """One tenant sends three times what the engine reads in time; the other one's question is answered in its own."""
    heavy = Platform(shop.url, shop.keys["storefront"]["key"])
    for number in range(WARM_UP):
        # What the engine is declared to read in a second counts until it was measured.
        warm = heavy.call("POST", "/v1/chat/completions", _long(number))
        require(warm.status == 200, "an idle pool answers", warm)
    status = shop.owner.call("GET", "/admin/v1/pools/embedded/status")
    require(status.status == 200 and status.body["engines"], "the pool tells what it holds", status)
    objective_s = status.body["objectives"]["interactive"]["ttft_ms"] / 1_000
    tokens_s = status.body["engines"][0]["prefill_tps"]
    count = min(CALLS_MAX, max(CALLS_MIN, round(LOAD * objective_s * tokens_s / PROMPT_TOKENS)))
    light = _Light(shop)
    light.ask()
    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(_flood, heavy, number, number * objective_s / 2 / count) for number in range(count)]
        # In the middle of the flood: what was promised to it before is half read, what comes now is over its share.
        time.sleep(objective_s / 2)
        light.ask()
        answers = [each.result() for each in calls]
    refused = [each for each in answers if each.status == 429]
    codes = {each.error.get("code") for each in refused}
    require(refused and codes <= REFUSALS, f"the flood is refused for load ({sorted(map(str, codes))})", answers[0])
    require(len(refused) + sum(each.status == 200 for each in answers) == count, "only 200 and 429", answers[0])
    for each in refused:
        told = each.body["interlock"]
        require(told["retry_after_s"] > 0 and told["fits"] and "predicted_ttft_ms" in told, "a refusal is honest", each)
    early = [each.seconds for each in refused if each.error["code"] in AT_ARRIVAL]
    require(early and statistics.median(early) <= EARLY_S, f"refusals come early ({early[:3]} s)", refused[0])
    require(light.slowest_s <= objective_s, f"the other tenant's first token came after {light.slowest_s:.1f} s")
    story = story_of(shop.desk(), light.request_id)
    steps = {each["rule"] for each in story["decisions"] if each["step"] == "grant"}
    require({"arrived", "predicted", "granted", "first_token", "settled"} <= steps, f"the story tells it ({steps})")
    figure = (
        f"{len(refused)} of {count} refused, half of them within {statistics.median(early) * 1000:.0f} ms; "
        f"the other tenant's first token after {light.slowest_s * 1000:.0f} of {objective_s * 1000:.0f} ms"
    )
    return Shown(figure, refused[0].request_id)


def _flood(heavy: Platform, number: int, after_s: float) -> Answer:
    time.sleep(after_s)
    return heavy.call("POST", "/v1/chat/completions", _long(WARM_UP + number))


def _long(number: int) -> dict[str, Any]:
    """Return a chat whose prompt no other one shares."""
    lines = [LINE.format(number=number * 100 + at) for at in range(PROMPT_TOKENS // LINE_TOKENS)]
    return chat("Sum this up. " + " ".join(lines), 4)


class _Light:
    """The tenant that asks little, and how long its first tokens took."""

    def __init__(self, shop: Shop) -> None:
        self._desk = shop.desk()
        self.slowest_s = 0.0
        self.request_id = ""

    def ask(self) -> None:
        """Ask one short question and read the whole stream."""
        body = chat("Say hello.", 4) | {"stream": True}
        answer, events = self._desk.stream("/v1/chat/completions", body)
        require(answer.status == 200, "the other tenant is served", answer)
        words = [each for each in events if each.text != "[DONE]" and json.loads(each.text)["choices"]]
        require(words, "the other tenant's answer has words", answer)
        self.slowest_s = max(self.slowest_s, words[0].at_s)
        self.request_id = answer.request_id
