"""Neutral events as an answer in the responses dialect, streamed or whole.

Reads no upstream, and keeps no answer for a later request to refer to.
"""

from typing import Any, Final

import msgspec

from interlock.gateway.domain.translate.answer import Block, Gathering, gathered
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
from interlock.gateway.domain.translate.raw import ABSENT, given

_encode: Final = msgspec.json.Encoder().encode
_TEXT: Final[dict[str, Any]] = {"format": {"type": "text"}, "verbosity": "medium"}
# What the caller asked for and finds in the answer, with what stands there when it asked for nothing.
_ECHOED: Final[dict[str, Any]] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0,
    "tool_choice": "auto", "tools": [], "text": _TEXT, "truncation": "disabled", "reasoning": None, "user": None,
    "safety_identifier": None, "prompt_cache_key": None,
}  # fmt: skip
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "tools": {"description": None, "parameters": None, "strict": None},
    "text": _TEXT,
    "reasoning": {"effort": None, "summary": None},
}
_INCOMPLETE: Final = {Reason.LENGTH: "max_output_tokens", Reason.REFUSAL: "content_filter"}


class ResponsesWriter:
    """Writes one answer; `asked` is the top level of the request."""

    def __init__(self, name: str, created_s: int, asked: dict[str, msgspec.Raw]) -> None:
        self._name = name
        self._created_s = created_s
        self._echoed = {name: _echo(name, asked) for name in _ECHOED}
        self._sequence = -1
        self._gathering = Gathering()
        self._items: list[dict[str, Any]] = []
        self._block: Block | None = None

    def write(self, event: Event) -> bytes:
        """Return the bytes of one event; a block begins and ends with several."""
        before = self._block
        block = self._block = self._gathering.add(event)
        match event:
            case TextDelta() | ThinkingDelta():
                told = (self._begun(block) if block is not before else b"") + self._delta(event)
            case ToolArgsDelta():
                told = self._event("response.function_call_arguments.delta", self._at(delta=event.text))
            case ToolStart():
                told = self._begun(block)
            case BlockEnd():
                self._block = None
                told = self._ended(block)
            case Start():
                snapshot = {"response": self._response("in_progress")}
                told = self._event("response.created", snapshot) + self._event("response.in_progress", snapshot)
            case Finish():
                status = "incomplete" if event.reason in _INCOMPLETE else "completed"
                told = self._event(f"response.{status}", {"response": self._response(status)})
            case _:
                told = b""
        return told

    def failed(self, code: str, message: str, interlock: dict[str, Any]) -> bytes:
        """Return the last event of an answer that failed after it had begun."""
        response = self._response("failed") | {"error": {"code": code, "message": message}}
        return self._event("response.failed", {"response": response, "interlock": interlock})

    def whole(self, events: list[Event]) -> bytes:
        """Return a whole answer."""
        self._gathering.whole = answer = gathered(events)
        self._items = [_item(self._id(each, place), each) for place, each in enumerate(answer.blocks)]
        return _encode(self._response("incomplete" if answer.finish.reason in _INCOMPLETE else "completed"))

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._sequence += 1
        return named(kind, _encode({"type": kind, "sequence_number": self._sequence, **fields}))

    def _at(self, **fields: Any) -> dict[str, Any]:
        place = len(self._items)
        return {"item_id": self._id(self._gathering.whole.blocks[-1], place), "output_index": place, **fields}

    def _id(self, block: Block, place: int) -> str:
        kind = {"text": "msg", "thinking": "rs", "tool": "fc"}[block.kind]
        return f"{kind}_{self._name}_{place}"

    def _begun(self, block: Block | None) -> bytes:
        if block is None:
            return b""
        place = len(self._items)
        item = _item(self._id(block, place), Block(block.kind, id=block.id, name=block.name))
        item |= {"content": []} if block.kind == "text" else {"summary": []} if block.kind == "thinking" else {}
        if block.kind != "thinking":
            item["status"] = "in_progress"
        added = self._event("response.output_item.added", {"output_index": place, "item": item})
        if block.kind == "text":
            return added + self._event("response.content_part.added", self._at(content_index=0, part=_part("")))
        if block.kind == "thinking":
            fields = self._at(summary_index=0, part=_summary(""))
            return added + self._event("response.reasoning_summary_part.added", fields)
        return added

    def _delta(self, event: TextDelta | ThinkingDelta) -> bytes:
        if isinstance(event, TextDelta):
            fields = self._at(content_index=0, delta=event.text, logprobs=[])
            return self._event("response.output_text.delta", fields)
        if not event.text:
            return b""
        return self._event("response.reasoning_summary_text.delta", self._at(summary_index=0, delta=event.text))

    def _ended(self, block: Block | None) -> bytes:
        if block is None:
            return b""
        item = _item(self._id(block, len(self._items)), block)
        if block.kind == "text":
            told = self._event("response.output_text.done", self._at(content_index=0, text=block.text, logprobs=[]))
            told += self._event("response.content_part.done", self._at(content_index=0, part=_part(block.text)))
        elif block.kind == "thinking":
            told = self._event("response.reasoning_summary_text.done", self._at(summary_index=0, text=block.text))
            fields = self._at(summary_index=0, part=_summary(block.text))
            told += self._event("response.reasoning_summary_part.done", fields)
        else:
            fields = self._at(name=block.name, arguments=block.text)
            told = self._event("response.function_call_arguments.done", fields)
        done = {"output_index": len(self._items), "item": item}
        self._items.append(item)
        return told + self._event("response.output_item.done", done)

    def _response(self, status: str) -> dict[str, Any]:
        answer = self._gathering.whole
        is_over = status in ("completed", "incomplete")
        reason = _INCOMPLETE.get(answer.finish.reason)
        return {
            "id": f"resp_{self._name}",
            "object": "response",
            "created_at": self._created_s,
            "completed_at": self._created_s if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "model": answer.model,
            "output": list(self._items),
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "usage": _usage(answer.usage) if is_over else None,
            **self._echoed,
        }


def _echo(name: str, asked: dict[str, msgspec.Raw]) -> Any:
    """Return what the answer says of a parameter: as it was asked for, with what was left out written out."""
    raw = given(asked.get(name, ABSENT))
    if raw is None:
        return _ECHOED[name]
    default = _DEFAULTS.get(name)
    if default is None:
        return raw
    told = msgspec.json.decode(raw)
    if isinstance(told, list):
        return [default | each for each in told]
    return default | told


def _item(name: str, block: Block) -> dict[str, Any]:
    if block.kind == "text":
        content = [_part(block.text)]
        return {"id": name, "type": "message", "status": "completed", "role": "assistant", "content": content}
    if block.kind == "thinking":
        return {"id": name, "type": "reasoning", "summary": [_summary(block.text)]}
    called = {"call_id": block.id, "name": block.name, "arguments": block.text}
    return {"id": name, "type": "function_call", "status": "completed", **called}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached or 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": usage.input + usage.output,
    }
