"""Reads a conversation in the form of the chat API: the calls made since the goal was set, and what came of them.

All state of an offline model is in the transcript, so the same transcript always gets the same answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlock.agents.domain.prompts import Opening, read_opening


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call and its result; `result` is empty where it was no object."""

    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcript:
    """The latest goal and the exchanges since."""

    opening: Opening
    exchanges: tuple[Exchange, ...]

    def named(self, name: str) -> list[Exchange]:
        """Return the exchanges of one tool."""
        return [exchange for exchange in self.exchanges if exchange.name == name]


@dataclass(frozen=True, slots=True)
class NextCall:
    """What an offline model says next; `text` stands beside the call."""

    name: str
    arguments: Mapping[str, Any]
    text: str = ""


def read_transcript(messages: Sequence[Mapping[str, Any]]) -> Transcript:
    """Read a conversation. Raises `ValueError` where no message sets a goal."""
    opening, start = read_opening(messages)
    results = {
        str(message.get("tool_call_id")): _object(message.get("content"))
        for message in messages[start:]
        if message.get("role") == "tool"
    }
    exchanges = [
        Exchange(call["function"]["name"], _object(call["function"].get("arguments")), results.get(call.get("id"), {}))
        for message in messages[start:]
        if message.get("role") == "assistant"
        for call in message.get("tool_calls") or ()
    ]
    return Transcript(opening, tuple(exchanges))


def _object(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
