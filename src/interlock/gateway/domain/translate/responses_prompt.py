"""A request in the responses dialect, as a caller makes it.

Remembers no earlier answer: a request that refers to one is refused by name.
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
    Tool,
    ToolResult,
    ToolUse,
    data_url,
    unsupported,
)
from interlock.gateway.domain.translate.raw import ABSENT, given

_IGNORED: Final = frozenset({"model", "stream", "stream_options"})
_DROPPED: Final = frozenset({"metadata", "store", "include", "truncation", "top_logprobs"})
# The other dialect of the family has these under the same names.
_SAME_FAMILY: Final = ("user", "service_tier", "safety_identifier", "prompt_cache_key")


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: str | list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[_Part] | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str = ""


class _Format(msgspec.Struct):
    type: str
    name: str = "answer"
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


def read_responses(top: dict[str, msgspec.Raw]) -> Prompt:
    """Return the request. Raises `PromptError`."""
    fields = Fields(top, _IGNORED)
    prompt = Prompt(format_param="text.format")
    instructions = fields.take("instructions", str)
    if instructions:
        prompt.system.append(instructions)
    asked = fields.require("input", str | list[_Item])
    if isinstance(asked, str):
        prompt.say("user", [Text(asked)])
    else:
        for place, item in enumerate(asked):
            _item(prompt, f"input.{place}", item)
    prompt.tools = [_tool(each) for each in fields.take("tools", list[_Tool]) or ()]
    prompt.choice = _choice(fields.take("tool_choice", str | _Choice))
    prompt.is_parallel = fields.take("parallel_tool_calls", bool)
    prompt.max_tokens = fields.take("max_output_tokens", int)
    prompt.temperature = fields.take("temperature", float)
    prompt.top_p = fields.take("top_p", float)
    _text(prompt, fields.take("text", _Text))
    reasoning = fields.take("reasoning", _Reasoning)
    prompt.effort = reasoning.effort if reasoning is not None else None
    for name in _SAME_FAMILY:
        raw = fields.raw(name)
        if raw is not None:
            prompt.same_family[name] = raw
    fields.accept("background", False)
    fields.drop(prompt, _DROPPED)
    fields.require_empty()
    return prompt


def _item(prompt: Prompt, param: str, item: _Item) -> None:
    match item.type:
        case "message":
            _message(prompt, param, item)
        case "function_call":
            prompt.say("assistant", [ToolUse(item.call_id, item.name, item.arguments)])
        case "function_call_output":
            told = item.output
            answered: list[Part] = [Text(told)] if isinstance(told, str) else _parts(param, told or [])
            kept = tuple(each for each in answered if isinstance(each, Text | Image))
            prompt.say("user", [ToolResult(item.call_id, kept)])
        case "reasoning":
            # Thoughts go only to the family that made them, and which one that was nobody says here.
            return
        case _:
            raise unsupported(param)


def _message(prompt: Prompt, param: str, item: _Item) -> None:
    content = item.content
    parts: list[Part] = [Text(content)] if isinstance(content, str) else _parts(param, content or [])
    if item.role in ("system", "developer"):
        prompt.system += [part.text for part in parts if isinstance(part, Text)]
    elif item.role == "user":
        prompt.say("user", parts)
    elif item.role == "assistant":
        prompt.say("assistant", parts)
    else:
        raise PromptError(f"{param}.role", f"There is no role {item.role[:64]!r}.")


def _parts(param: str, parts: list[_Part]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        if part.type in ("input_text", "output_text", "text", "refusal"):
            found.append(Text(part.text or part.refusal))
        elif part.type == "input_image" and part.image_url:
            found.append(data_url(part.image_url))
        else:
            raise unsupported(f"{param}.content")
    return found


def _tool(tool: _Tool) -> Tool:
    if tool.type != "function":
        raise unsupported("tools")
    return Tool(tool.name, tool.description, given(tool.parameters), tool.strict)


def _choice(named: str | _Choice | None) -> Choice | None:
    if named is None:
        return None
    if isinstance(named, _Choice):
        if named.type != "function":
            raise unsupported("tool_choice")
        return Choice("named", named.name)
    found: dict[str, Choice] = {"auto": Choice("auto"), "none": Choice("none"), "required": Choice("any")}
    if named not in found:
        raise PromptError("tool_choice", "`tool_choice` is auto, none, required or a function.")
    return found[named]


def _text(prompt: Prompt, wanted: _Text | None) -> None:
    if wanted is None:
        return
    if wanted.verbosity is not None:
        prompt.drop("verbosity")
    form: Any = wanted.format
    if form is None or form.type == "text":
        return
    if form.type == "json_object":
        prompt.format = Format()
    elif form.type == "json_schema" and given(form.schema) is not None:
        prompt.format = Format(given(form.schema), form.name, form.strict, form.description)
    else:
        raise unsupported("text.format")
