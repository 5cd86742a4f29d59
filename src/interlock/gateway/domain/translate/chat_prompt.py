"""A request in the chat dialect: read from a caller, written for an upstream.

Reads no answer.
"""

from typing import Any, Final

import msgspec

from interlock.gateway.domain.translate.prompt import (
    Choice,
    Fields,
    Format,
    Image,
    Part,
    Prompt,
    PromptError,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
    data_url,
    unsupported,
    url_of,
)
from interlock.gateway.domain.translate.raw import ABSENT, given

# Read elsewhere, or true of every answer that is not streamed.
_IGNORED: Final = frozenset({"model", "stream", "stream_options"})
_DROPPED: Final = frozenset({
    "seed", "logit_bias", "logprobs", "top_logprobs", "user", "metadata", "service_tier", "top_k", "store",
    "verbosity", "prompt_cache_key", "safety_identifier",
})  # fmt: skip
_encode: Final = msgspec.json.Encoder().encode


class _Url(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str = ""


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _ToolFunction | None = None


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    type: str
    function: _Named | None = None


class _Schema(msgspec.Struct):
    name: str = "answer"
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None
    description: str | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


def read_chat(top: dict[str, msgspec.Raw]) -> Prompt:
    """Return the request. Raises `PromptError`."""
    fields = Fields(top, _IGNORED)
    prompt = Prompt()
    for place, message in enumerate(fields.require("messages", list[_Message])):
        _say(prompt, place, message)
    prompt.tools = [_tool(each) for each in fields.take("tools", list[_Tool]) or ()]
    prompt.choice = _choice(fields.take("tool_choice", str | _Choice))
    prompt.is_parallel = fields.take("parallel_tool_calls", bool)
    figures = (fields.take("max_completion_tokens", int), fields.take("max_tokens", int))
    prompt.max_tokens = figures[0] or figures[1]
    prompt.temperature = fields.take("temperature", float)
    prompt.top_p = fields.take("top_p", float)
    stop = fields.take("stop", str | list[str])
    prompt.stop = [stop] if isinstance(stop, str) else stop or []
    prompt.format = _format(fields.take("response_format", _Format))
    prompt.effort = fields.take("reasoning_effort", str)
    fields.accept("n", 1)
    fields.accept("frequency_penalty", 0)
    fields.accept("presence_penalty", 0)
    fields.accept("modalities", ["text"])
    fields.drop(prompt, _DROPPED)
    fields.require_empty()
    return prompt


def write_chat(prompt: Prompt, model: str) -> bytes:
    """Return the request for an upstream. A stream is always asked for its usage."""
    body: dict[str, Any] = {"model": model, "messages": _messages(prompt)}
    if prompt.is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if prompt.tools:
        body["tools"] = [{"type": "function", "function": _function(each)} for each in prompt.tools]
    if prompt.choice is not None:
        body["tool_choice"] = _written_choice(prompt.choice)
    if prompt.tools and prompt.is_parallel is not None:
        body["parallel_tool_calls"] = prompt.is_parallel
    figures = {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature, "top_p": prompt.top_p}
    body |= {name: value for name, value in figures.items() if value is not None}
    if prompt.stop:
        body["stop"] = prompt.stop
    if prompt.format is not None:
        body["response_format"] = _written_format(prompt.format)
    if prompt.effort is not None:
        body["reasoning_effort"] = prompt.effort
    return _encode(body | prompt.same_family)


def _say(prompt: Prompt, place: int, message: _Message) -> None:
    if message.role in ("system", "developer"):
        texts = [part.text for part in _parts(place, message.content) if isinstance(part, Text)]
        prompt.system.append("\n".join(texts))
    elif message.role == "user":
        prompt.say("user", _parts(place, message.content))
    elif message.role == "tool":
        answered = tuple(each for each in _parts(place, message.content) if isinstance(each, Text | Image))
        prompt.say("user", [ToolResult(message.tool_call_id, answered)])
    elif message.role == "assistant":
        said = _parts(place, message.content or message.refusal)
        for call in message.tool_calls or ():
            if call.function is None:
                raise unsupported(f"messages.{place}.tool_calls")
            said.append(ToolUse(call.id, call.function.name, call.function.arguments))
        prompt.say("assistant", said)
    else:
        raise PromptError(f"messages.{place}.role", f"There is no role {message.role[:64]!r}.")


def _parts(place: int, content: str | list[_Part] | None) -> list[Part]:
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    found: list[Part] = []
    for part in content:
        if part.type in ("text", "refusal"):
            text = part.text or part.refusal or ""
            if text:
                found.append(Text(text))
        elif part.type == "image_url" and part.image_url is not None:
            found.append(data_url(part.image_url.url))
        else:
            raise unsupported(f"messages.{place}.content")
    return found


def _tool(tool: _Tool) -> Tool:
    function = tool.function
    if tool.type != "function" or function is None:
        raise unsupported("tools")
    return Tool(function.name, function.description, given(function.parameters), function.strict)


def _choice(named: str | _Choice | None) -> Choice | None:
    if named is None:
        return None
    if isinstance(named, _Choice):
        if named.type != "function" or named.function is None:
            raise unsupported("tool_choice")
        return Choice("named", named.function.name)
    found: dict[str, Choice] = {"auto": Choice("auto"), "none": Choice("none"), "required": Choice("any")}
    if named not in found:
        raise PromptError("tool_choice", "`tool_choice` is auto, none, required or a function.")
    return found[named]


def _format(wanted: _Format | None) -> Format | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Format()
    schema = wanted.json_schema
    if wanted.type != "json_schema" or schema is None:
        raise unsupported("response_format")
    return Format(given(schema.schema), schema.name, schema.strict, schema.description)


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if prompt.system:
        messages.append({"role": "system", "content": "\n\n".join(prompt.system)})
    for turn in prompt.turns:
        messages += _assistant(turn) if turn.role == "assistant" else _user(turn)
    return messages


def _assistant(turn: Turn) -> list[dict[str, Any]]:
    text = "".join(part.text for part in turn.parts if isinstance(part, Text))
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in turn.parts
        if isinstance(part, ToolUse)
    ]
    if not text and not calls:
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return [message | {"tool_calls": calls} if calls else message]


def _user(turn: Turn) -> list[dict[str, Any]]:
    """Return what a user said: answers of tools first, which follow the call at once in this dialect."""
    messages: list[dict[str, Any]] = []
    said: list[Text | Image] = []
    for part in turn.parts:
        match part:
            case ToolResult():
                text = "\n".join(each.text for each in part.parts if isinstance(each, Text))
                messages.append({"role": "tool", "tool_call_id": part.id, "content": text})
                said += [each for each in part.parts if isinstance(each, Image)]
            case Text() | Image():
                said.append(part)
            case Thinking() | ToolUse():
                continue
    if said:
        messages.append({"role": "user", "content": _content(said)})
    return messages


def _content(parts: list[Text | Image]) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": url_of(part)}}
        for part in parts
    ]


def _function(tool: Tool) -> dict[str, Any]:
    named = {"name": tool.name, "description": tool.description, "parameters": tool.schema, "strict": tool.strict}
    return {name: value for name, value in named.items() if value is not None}


def _written_choice(choice: Choice) -> Any:
    if choice.kind == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.kind == "any" else choice.kind


def _written_format(wanted: Format) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    if wanted.description is not None:
        schema["description"] = wanted.description
    return {"type": "json_schema", "json_schema": schema}
