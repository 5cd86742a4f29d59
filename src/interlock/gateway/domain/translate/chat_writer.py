"""Neutral events as an answer in the chat dialect, streamed or whole.

Reads no upstream; `chat_reader.py` does.
"""

from typing import Any, Final

import msgspec

from interlock.gateway.domain.translate.answer import gathered
from interlock.gateway.domain.translate.events import (
    Event,
    Finish,
    Reason,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolStart,
    Usage,
)

_REASONS: Final = {
    Reason.STOP: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.LENGTH: "length",
    Reason.TOOLS: "tool_calls",
    Reason.REFUSAL: "content_filter",
}
_encode: Final = msgspec.json.Encoder().encode
_HEAD: Final = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
_ARGUMENTS: Final = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}'
_DONE: Final = b"data: [DONE]\n\n"


class ChatWriter:
    """Writes one answer. `name` is its id; the usage chunk goes to those who asked for it."""

    def __init__(self, name: str, created_s: int, *, wants_usage: bool) -> None:
        self._name = f"chatcmpl-{name}"
        self._created_s = created_s
        self._wants_usage = wants_usage
        self._head = b""
        self._usage: Usage | None = None
        self._tools = -1

    def write(self, event: Event) -> bytes:
        """Return the bytes of one event; most of them have one chunk, ends of blocks none."""
        match event:
            case TextDelta():
                told = self._chunk(b'{"content":%b}' % _encode(event.text))
            case ThinkingDelta() if event.text:
                told = self._chunk(b'{"reasoning_content":%b}' % _encode(event.text))
            case ToolArgsDelta():
                told = self._chunk(_ARGUMENTS % (self._tools, _encode(event.text)))
            case ToolStart():
                told = self._tool(event)
            case Start():
                name, model = _encode(self._name), _encode(event.model)
                self._head = _HEAD % (name, self._created_s, model)
                told = self._chunk(b'{"role":"assistant","content":""}')
            case Finish():
                told = self._finish(event)
            case _:
                self._usage = event if isinstance(event, Usage) else self._usage
                told = b""
        return told

    def whole(self, events: list[Event]) -> bytes:
        """Return a whole answer."""
        answer = gathered(events)
        said = {kind: [block for block in answer.blocks if block.kind == kind] for kind in ("text", "thinking", "tool")}
        text = "".join(block.text for block in said["text"])
        message: dict[str, Any] = {"role": "assistant", "content": text if said["text"] or not said["tool"] else None}
        message |= {"refusal": None, "annotations": []}
        if said["thinking"]:
            message["reasoning_content"] = "".join(block.text for block in said["thinking"])
        if said["tool"]:
            message["tool_calls"] = [
                {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.text}}
                for block in said["tool"]
            ]
        reason = _REASONS[answer.finish.reason]
        return _encode(
            {
                "id": self._name,
                "object": "chat.completion",
                "created": self._created_s,
                "model": answer.model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
                "usage": _usage(answer.usage),
            }
        )

    def _chunk(self, delta: bytes, reason: bytes = b"null") -> bytes:
        tail = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
        return self._head + tail % (delta, reason)

    def _tool(self, event: ToolStart) -> bytes:
        self._tools += 1
        function = {"name": event.name, "arguments": ""}
        call = {"index": self._tools, "id": event.id, "type": "function", "function": function}
        return self._chunk(_encode({"tool_calls": [call]}))

    def _finish(self, finish: Finish) -> bytes:
        last = self._chunk(b"{}", _encode(_REASONS[finish.reason]))
        if not self._wants_usage:
            return last + _DONE
        usage = _encode(_usage(self._usage or Usage()))
        return last + self._head + b'],"usage":%b}\n\n' % usage + _DONE


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached or 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning or 0, "audio_tokens": 0},
    }
