"""A request in the messages dialect: read from a caller, written for an upstream.

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
    unsupported,
)
from interlock.gateway.domain.translate.raw import ABSENT, given

MAX_TOKENS_DEFAULT: Final = 4_096
_TEMPERATURE_MAX: Final = 1.0
_IGNORED: Final = frozenset({"model", "stream"})
_DROPPED: Final = frozenset({"metadata", "service_tier", "top_k", "cache_control"})
_encode: Final = msgspec.json.Encoder().encode


class _Source(msgspec.Struct):
    type: str
    url: str = ""
    media_type: str = ""
    data: str = ""


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    source: _Source | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = ABSENT
    tool_use_id: str = ""
    content: msgspec.Raw = ABSENT
    is_error: bool | None = None
    cache_control: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = ABSENT
    strict: bool | None = None
    cache_control: msgspec.Raw = ABSENT


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str


class _Form(msgspec.Struct):
    type: str
    schema: msgspec.Raw = ABSENT


class _Output(msgspec.Struct):
    format: _Form | None = None
    effort: str | None = None


def read_messages(top: dict[str, msgspec.Raw]) -> Prompt:
    """Return the request. Raises `PromptError`."""
    fields = Fields(top, _IGNORED)
    prompt = Prompt(format_param="output_config")
    system = fields.take("system", str | list[_Block])
    if isinstance(system, str):
        prompt.system = [system] if system else []
    elif system:
        prompt.system = ["\n".join(part.text for part in _parts(prompt, "system", system) if isinstance(part, Text))]
    for place, message in enumerate(fields.require("messages", list[_Message])):
        _say(prompt, place, message)
    prompt.tools = [_tool(prompt, each) for each in fields.take("tools", list[_Tool]) or ()]
    choice = fields.take("tool_choice", _Choice)
    if choice is not None:
        prompt.choice = _choice(choice)
        if choice.disable_parallel_tool_use is not None:
            prompt.is_parallel = not choice.disable_parallel_tool_use
    prompt.max_tokens = fields.take("max_tokens", int)
    prompt.temperature = fields.take("temperature", float)
    prompt.top_p = fields.take("top_p", float)
    prompt.stop = fields.take("stop_sequences", list[str]) or []
    thinking = fields.take("thinking", _Thinking)
    if thinking is not None and thinking.type != "disabled":
        raise unsupported("thinking")
    _output(prompt, fields.take("output_config", _Output))
    fields.drop(prompt, _DROPPED)
    fields.require_empty()
    return prompt


def write_messages(prompt: Prompt, model: str) -> bytes:
    """Return the request for an upstream. Raises `PromptError`; notes in the prompt what it had to drop."""
    _require_writable(prompt)
    body: dict[str, Any] = {"model": model, "max_tokens": prompt.max_tokens or MAX_TOKENS_DEFAULT}
    if prompt.is_stream:
        body["stream"] = True
    if prompt.system:
        body["system"] = "\n\n".join(prompt.system)
    body["messages"] = [{"role": turn.role, "content": _content(turn.parts)} for turn in prompt.turns if turn.parts]
    if prompt.tools:
        body["tools"] = [_written_tool(each) for each in prompt.tools]
    choice = _written_choice(prompt)
    if choice is not None:
        body["tool_choice"] = choice
    body |= _figures(prompt)
    if prompt.stop:
        body["stop_sequences"] = prompt.stop
    return _encode(body)


def _require_writable(prompt: Prompt) -> None:
    if prompt.format is not None:
        raise unsupported(prompt.format_param)
    if prompt.effort is not None:
        raise unsupported("reasoning_effort" if prompt.format_param == "response_format" else "reasoning")
    for name in sorted(prompt.same_family):
        prompt.drop(name)


def _figures(prompt: Prompt) -> dict[str, float]:
    figures: dict[str, float] = {}
    if prompt.temperature is not None:
        figures["temperature"] = min(prompt.temperature, _TEMPERATURE_MAX)
        if prompt.temperature > _TEMPERATURE_MAX:
            prompt.drop("temperature")
    if prompt.top_p is not None:
        figures["top_p"] = prompt.top_p
    return figures


def _say(prompt: Prompt, place: int, message: _Message) -> None:
    if message.role == "system":
        prompt.system += [part.text for part in _said(prompt, place, message) if isinstance(part, Text)]
    elif message.role == "user":
        prompt.say("user", _said(prompt, place, message))
    elif message.role == "assistant":
        prompt.say("assistant", _said(prompt, place, message))
    else:
        raise PromptError(f"messages.{place}.role", f"There is no role {message.role[:64]!r}.")


def _said(prompt: Prompt, place: int, message: _Message) -> list[Part]:
    if isinstance(message.content, str):
        return [Text(message.content)] if message.content else []
    return _parts(prompt, f"messages.{place}.content", message.content)


def _parts(prompt: Prompt, param: str, blocks: list[_Block]) -> list[Part]:
    found: list[Part] = []
    for place, block in enumerate(blocks):
        if given(block.cache_control) is not None:
            prompt.drop("cache_control")
        if block.type == "text":
            found.append(Text(block.text))
        elif block.type == "image" and block.source is not None:
            found.append(_image(f"{param}.{place}", block.source))
        elif block.type == "tool_use":
            arguments = bytes(given(block.input) or b"{}").decode()
            found.append(ToolUse(block.id, block.name, arguments))
        elif block.type == "tool_result":
            answered = _answered(prompt, f"{param}.{place}", given(block.content))
            found.append(ToolResult(block.tool_use_id, answered, is_error=bool(block.is_error)))
        elif block.type == "thinking":
            found.append(Thinking(block.thinking, block.signature))
        elif block.type == "document" and block.source is not None and block.source.type == "text":
            found.append(Text(block.source.data))
        elif block.type != "redacted_thinking":
            raise unsupported(f"{param}.{place}")
    return found


def _answered(prompt: Prompt, param: str, content: msgspec.Raw | None) -> tuple[Text | Image, ...]:
    if content is None:
        return ()
    try:
        told = msgspec.json.decode(content, type=str | list[_Block] | None)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PromptError(param, f"`content` cannot be read: {error}"[:400]) from error
    if isinstance(told, str):
        return (Text(told),)
    return tuple(each for each in _parts(prompt, param, told or []) if isinstance(each, Text | Image))


def _image(param: str, source: _Source) -> Image:
    if source.type == "url":
        return Image(url=source.url)
    if source.type == "base64":
        return Image(media_type=source.media_type, content=source.data)
    raise unsupported(param)


def _tool(prompt: Prompt, tool: _Tool) -> Tool:
    if tool.type not in (None, "custom"):
        raise unsupported("tools")
    if given(tool.cache_control) is not None:
        prompt.drop("cache_control")
    return Tool(tool.name, tool.description, given(tool.input_schema), tool.strict)


def _choice(named: _Choice) -> Choice:
    match named.type:
        case "auto":
            return Choice("auto")
        case "any":
            return Choice("any")
        case "none":
            return Choice("none")
        case "tool":
            return Choice("named", named.name)
        case _:
            raise PromptError("tool_choice", "`tool_choice` is of type auto, any, none or tool.")


def _output(prompt: Prompt, wanted: _Output | None) -> None:
    if wanted is None:
        return
    prompt.effort = wanted.effort
    if wanted.format is not None:
        if wanted.format.type != "json_schema" or given(wanted.format.schema) is None:
            raise unsupported("output_config")
        prompt.format = Format(given(wanted.format.schema))


def _content(parts: list[Part]) -> list[dict[str, Any]]:
    """Return blocks; answers of tools stand first, as this dialect wants them."""
    answers = [part for part in parts if isinstance(part, ToolResult)]
    return [_block(part) for part in answers + [part for part in parts if not isinstance(part, ToolResult)]]


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            source = {"type": "url", "url": part.url}
            if not part.url:
                source = {"type": "base64", "media_type": part.media_type, "data": part.content}
            return {"type": "image", "source": source}
        case ToolUse():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part)}
        case ToolResult():
            block: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.id}
            block["content"] = [_block(each) for each in part.parts]
            return block | {"is_error": True} if part.is_error else block
        case Thinking():
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _input(part: ToolUse) -> msgspec.Raw:
    if not part.arguments.strip():
        return msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(part.arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PromptError("messages", f"The arguments of the call {part.id[:64]!r} are no JSON object.") from error
    return msgspec.Raw(part.arguments.encode())


def _written_tool(tool: Tool) -> dict[str, Any]:
    schema = tool.schema if tool.schema is not None else {"type": "object", "properties": {}}
    written: dict[str, Any] = {"name": tool.name, "input_schema": schema}
    if tool.description is not None:
        written["description"] = tool.description
    return written | {"strict": True} if tool.strict else written


def _written_choice(prompt: Prompt) -> dict[str, Any] | None:
    if not prompt.tools:
        return None
    kind = prompt.choice.kind if prompt.choice is not None else None
    if kind is None and prompt.is_parallel is not False:
        return None
    written: dict[str, Any] = {"type": "tool" if kind == "named" else kind or "auto"}
    if kind == "named" and prompt.choice is not None:
        written["name"] = prompt.choice.name
    if prompt.is_parallel is False and kind != "none":
        written["disable_parallel_tool_use"] = True
    return written
