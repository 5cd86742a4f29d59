"""The tour of `make demo`: each step is made of public HTTP calls on the demo shop and is verified, or fails.

Holds no knowledge of the inside: what it asserts, any caller could.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from examples.shop.client import Platform
from examples.shop.site import ShopSite
from examples.shop.steps import agents, crawler, evals, gateway, platform, retrieval, scheduler
from examples.shop.steps.kit import Shop, Shown, UnverifiedError

Step = Callable[[Shop], Shown]

STEPS: tuple[tuple[str, str, Step], ...] = (
    ("platform", "set up the company", platform.set_up_the_company),
    ("gateway", "answer a question", gateway.answer_a_question),
    ("gateway", "stream an answer", gateway.stream_an_answer),
    ("gateway", "burst over a limit", gateway.burst_over_a_limit),
    ("gateway", "open the stories of refusals", gateway.open_the_stories_of_refusals),
    ("scheduler", "burst from two tenants", scheduler.burst_from_two_tenants),
    ("crawler", "crawl the shop site", crawler.crawl_the_shop_site),
    ("retrieval", "answer two people", retrieval.answer_two_people),
    ("retrieval", "take away and ask again", retrieval.take_away_and_ask_again),
    ("agents", "mend a failing test", agents.mend_a_failing_test),
    ("agents", "kill the worker in mid-task", agents.kill_the_worker_in_mid_task),
    ("evals", "turn an incident into a gate", evals.turn_an_incident_into_a_gate),
    ("gateway", "kill switch on and off", gateway.kill_and_revive),
    ("platform", "verify the audit chain", platform.verify_the_audit_chain),
)


def open_site() -> ShopSite:
    """Serve the shop's web site; its one port has to be on the crawl allow-list before the platform starts."""
    return ShopSite()


@dataclass(frozen=True, slots=True)
class Toured:
    """Whether every step was verified, and the key with which a person sees what the steps left behind."""

    is_verified: bool
    key: str


def run(url: str, key: str, data: str, site: ShopSite) -> Toured:
    """Run all steps and print a line for each."""
    shop = Shop(Platform(url, key), url, run=f"{time.time_ns() // 1_000_000:x}", site=site, data=data)
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
    return Toured(verified == len(STEPS), shop.engineer.key if shop.engineer is not None else key)


def _tell(number: int, word: str, system: str, text: str, began: float) -> None:
    millis = (time.perf_counter() - began) * 1000
    print(f"[{number}/{len(STEPS)}] {word} {system} {text} {millis:.0f} ms", flush=True)


def _explain(request_id: str, data: str) -> None:
    if request_id:
        subprocess.run([sys.executable, "-m", "interlock", "trace", request_id, "--data", data], check=False)  # noqa: S603 - our own command line
