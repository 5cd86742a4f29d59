"""One answer of an offline model in the two shapes of the chat API: whole, and as chunks of a stream.

Decides nothing of what is answered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_PIECE_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A call of one tool with a text beside it, and what it cost."""

    completion_id: str
    created_s: int
    model: str
    text: str
    call_name: str
    call_id: str
    arguments: str
    is_cut: bool
    prompt_tokens: int
    completion_tokens: int

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        call = {
            "id": self.call_id,
            "type": "function",
            "function": {"name": self.call_name, "arguments": self.arguments},
        }
        message = {"role": "assistant", "content": self.text or None, "refusal": None, "tool_calls": [call]}
        choice = {"index": 0, "logprobs": None, "finish_reason": self._finish_reason, "message": message}
        return {**self._frame("chat.completion"), "choices": [choice], "usage": self._usage}

    def chunks(self, *, includes_usage: bool) -> Iterator[dict[str, Any]]:
        """Yield the answer as a language model would give it: role, text, call, its arguments, reason, figures."""
        yield self._chunk({"role": "assistant", "content": self.text or None})
        head = {"name": self.call_name, "arguments": ""}
        yield self._chunk({"tool_calls": [{"index": 0, "id": self.call_id, "type": "function", "function": head}]})
        for start in range(0, len(self.arguments), _PIECE_CHARS):
            piece = {"arguments": self.arguments[start : start + _PIECE_CHARS]}
            yield self._chunk({"tool_calls": [{"index": 0, "function": piece}]})
        yield self._chunk({}, self._finish_reason)
        if includes_usage:
            yield {**self._frame("chat.completion.chunk"), "choices": [], "usage": self._usage}

    @property
    def _finish_reason(self) -> str:
        return "length" if self.is_cut else "tool_calls"

    @property
    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.completion_id, "object": kind, "created": self.created_s, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason, "delta": delta}
        return {**self._frame("chat.completion.chunk"), "choices": [choice]}
