"""Neutral events as an answer in the messages dialect, streamed or whole.

Reads no upstream; `messages_reader.py` does.
"""

from typing import Any, Final

import msgspec

from interlock.gateway.domain.translate.answer import Block, gathered
from interlock.gateway.domain.translate.events import (
    BlockEnd,
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
from interlock.gateway.domain.translate.frames import named

_REASONS: Final = {
    Reason.STOP: "end_turn",
    Reason.STOP_SEQUENCE: "stop_sequence",
    Reason.LENGTH: "max_tokens",
    Reason.TOOLS: "tool_use",
    Reason.REFUSAL: "refusal",
}
_encode: Final = msgspec.json.Encoder().encode
_DELTA: Final = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'


class MessagesWriter:
    """Writes one answer; `name` is its id, and `input_estimate` stands at its start, where no upstream has counted."""

    def __init__(self, name: str, input_estimate: int) -> None:
        self._name = f"msg_{name}"
        self._input_estimate = input_estimate
        self._index = 0
        self._is_open = False
        self._usage = Usage()

    def write(self, event: Event) -> bytes:
        """Return the bytes of one event."""
        match event:
            case TextDelta():
                told = self._begun({"type": "text", "text": ""}) + self._delta(b"text_delta", b"text", event.text)
            case ToolArgsDelta():
                told = self._delta(b"input_json_delta", b"partial_json", event.text)
            case ThinkingDelta():
                told = self._thinking(event)
            case ToolStart():
                told = self._begun(_tool(event.id, event.name, {}))
            case BlockEnd():
                self._is_open = False
                self._index += 1
                told = named("content_block_stop", _encode({"type": "content_block_stop", "index": self._index - 1}))
            case Start():
                told = self._start(event)
            case Finish():
                told = self._finish(event)
            case _:
                self._usage = event if isinstance(event, Usage) else self._usage
                told = b""
        return told

    def whole(self, events: list[Event]) -> bytes:
        """Return a whole answer."""
        answer = gathered(events)
        self._usage = answer.usage
        return _encode(self._message(answer.model, [_block(each) for each in answer.blocks], answer.finish))

    def _message(self, model: str, content: list[dict[str, Any]], finish: Finish) -> dict[str, Any]:
        return {
            "id": self._name,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": _REASONS[finish.reason],
            "stop_sequence": finish.stop_sequence,
            "stop_details": None,
            "container": None,
            "usage": _usage(self._usage),
        }

    def _start(self, event: Start) -> bytes:
        usage = _usage(Usage(self._input_estimate))
        message = self._message(event.model, [], Finish(Reason.STOP)) | {"stop_reason": None, "usage": usage}
        return named("message_start", _encode({"type": "message_start", "message": message})) + _PING

    def _begun(self, block: dict[str, Any]) -> bytes:
        if self._is_open:
            return b""
        self._is_open = True
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return named("content_block_start", _encode(start))

    def _delta(self, kind: bytes, field: bytes, text: str) -> bytes:
        return _DELTA % (self._index, kind, field, _encode(text))

    def _thinking(self, event: ThinkingDelta) -> bytes:
        start = self._begun({"type": "thinking", "thinking": "", "signature": ""})
        text = self._delta(b"thinking_delta", b"thinking", event.text) if event.text else b""
        signed = self._delta(b"signature_delta", b"signature", event.signature) if event.signature else b""
        return start + text + signed

    def _finish(self, finish: Finish) -> bytes:
        delta = {"stop_reason": _REASONS[finish.reason], "stop_sequence": finish.stop_sequence}
        last = {"type": "message_delta", "delta": delta, "usage": _usage(self._usage)}
        return named("message_delta", _encode(last)) + named("message_stop", b'{"type":"message_stop"}')


def _block(block: Block) -> dict[str, Any]:
    if block.kind == "text":
        return {"type": "text", "text": block.text, "citations": None}
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": block.text, "signature": block.signature}
    return _tool(block.id, block.name, _input(block.text))


def _tool(call_id: str, name: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given, "caller": {"type": "direct"}}


def _input(text: str) -> msgspec.Raw:
    """Return a tool's arguments as they were written. Raises `ValueError`: here they must be an object."""
    if not text.strip():
        return msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("the arguments of a tool are no JSON object") from error
    return msgspec.Raw(text.encode())


def _usage(usage: Usage) -> dict[str, Any]:
    read, written = usage.cached or 0, usage.cache_written or 0
    return {
        "input_tokens": max(0, usage.input - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": None,
        "output_tokens": usage.output,
        "output_tokens_details": None if usage.reasoning is None else {"thinking_tokens": usage.reasoning},
        "server_tool_use": None,
        "service_tier": None,
        "inference_geo": None,
    }
