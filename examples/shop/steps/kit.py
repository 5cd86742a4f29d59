"""What every step of the tour uses: the shop so far, how a step fails, stories that must be complete.

Holds no step.
"""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from examples.shop.client import Answer, Platform
from examples.shop.site import ShopSite

STORY_WAIT_S: Final = 2.0


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
    site: ShopSite
    organization_id: str = ""
    workspaces: dict[str, str] = field(default_factory=dict)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    engineer: Platform | None = None
    data: str = ""
    refused: dict[str, str] = field(default_factory=dict)

    def desk(self) -> Platform:
        """The platform as the support desk's own key sees it."""
        return Platform(self.url, self.keys["support-desk"]["key"])


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcome of a verified step: a figure for the reader and the id to follow."""

    figure: str
    id: str


def require(condition: object, why: str, answer: Answer | None = None) -> None:
    """Fail the step unless the condition holds."""
    if not condition:
        got = f" (got {answer.status} {json.dumps(answer.body)[:300]})" if answer else ""
        raise UnverifiedError(why + got, answer.request_id if answer else "")


def engineer_of(shop: Shop) -> Platform:
    """Return the platform as the company's own platform engineer sees it."""
    if shop.engineer is None:
        raise UnverifiedError("the company has no platform engineer, as the first step failed")
    return shop.engineer


def chat(text: str, max_tokens: int) -> dict[str, Any]:
    """Return the body of a chat with one question."""
    return {"model": "default", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}


def story_of(reader: Platform, request_id: str) -> dict[str, Any]:
    """Return a story once it is complete, which it must be within two seconds."""
    deadline = time.perf_counter() + STORY_WAIT_S
    while True:
        told = reader.call("GET", f"/v1/requests/{request_id}")
        if told.status == 200 and told.body["complete"]:
            return dict(told.body)
        if time.perf_counter() > deadline:
            raise UnverifiedError(f"no complete story of {request_id} after {STORY_WAIT_S} s", request_id)
        time.sleep(0.05)
