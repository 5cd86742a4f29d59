"""What a caller asks of a model, whichever dialect it speaks.

Knows no dialect and keeps no parameter that has no counterpart.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from interlock.gateway.domain.refusals import Refusal

_decode: Final = msgspec.json.Decoder().decode
_PARAM_CHARS_MAX: Final = 128


class PromptError(ValueError):
    """A request cannot be put to the upstream that it would go to."""

    def __init__(self, param: str, message: str, code: str = "invalid_request") -> None:
        # A caller may name a field as long as a body may be; stories hold what they are told.
        self.param = param[:_PARAM_CHARS_MAX]
        self.code = code
        super().__init__(message)

    @property
    def refusal(self) -> Refusal:
        """The refusal that the caller reads."""
        return Refusal(self.code, f"body.{self.param}", message=str(self), param=self.param)


def unsupported(param: str) -> PromptError:
    """Return the error of a parameter that the upstream has no counterpart of."""
    message = f"The upstream of this model has no counterpart of `{param[:_PARAM_CHARS_MAX]}`."
    return PromptError(param, message, "unsupported_parameter")


class Text(msgspec.Struct, frozen=True, tag=True):
    """Words."""

    text: str


class Image(msgspec.Struct, frozen=True, tag=True):
    """A picture, by its address or in base64 with its media type."""

    url: str = ""
    media_type: str = ""
    content: str = ""


class Thinking(msgspec.Struct, frozen=True, tag=True):
    """Thoughts of an earlier turn with the signature of the family that made them."""

    text: str
    signature: str


class ToolUse(msgspec.Struct, frozen=True, tag=True):
    """A tool that the model used; `arguments` is the text of a JSON value as the model wrote it."""

    id: str
    name: str
    arguments: str


class ToolResult(msgspec.Struct, frozen=True, tag=True):
    """What a tool answered."""

    id: str
    parts: tuple[Text | Image, ...]
    is_error: bool = False


Part = Text | Image | Thinking | ToolUse | ToolResult


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may use; `schema` is the JSON Schema of its arguments."""

    name: str
    description: str | None = None
    schema: msgspec.Raw | None = None
    strict: bool | None = None


class Choice(msgspec.Struct, frozen=True):
    """Which tool the model has to use."""

    kind: Literal["auto", "any", "none", "named"]
    name: str = ""


class Format(msgspec.Struct, frozen=True):
    """The form that the answer has to have: any JSON object, or one of a schema."""

    schema: msgspec.Raw | None = None
    name: str = "answer"
    strict: bool | None = None
    description: str | None = None


@dataclass(slots=True)
class Turn:
    """What one side said, in order."""

    role: Literal["user", "assistant"]
    parts: list[Part] = field(default_factory=list)


@dataclass(slots=True)
class Prompt:
    """A whole request. `dropped` names the parameters that have no counterpart and do not matter to the answer."""

    is_stream: bool = False
    system: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    choice: Choice | None = None
    is_parallel: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = field(default_factory=list)
    format: Format | None = None
    format_param: str = "response_format"
    effort: str | None = None
    same_family: dict[str, msgspec.Raw] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def say(self, role: Literal["user", "assistant"], parts: list[Part]) -> None:
        """Add what a side said; what it says in a row is one turn."""
        if not self.turns or self.turns[-1].role != role:
            self.turns.append(Turn(role))
        self.turns[-1].parts += parts

    def drop(self, name: str) -> None:
        """Note a parameter that is dropped."""
        if name not in self.dropped:
            self.dropped.append(name)


class Fields:
    """The top level of a request, read field by field; what was not asked for in the end is unsupported."""

    def __init__(self, top: dict[str, msgspec.Raw], ignored: frozenset[str]) -> None:
        self._top = {name: raw for name, raw in top.items() if name not in ignored and bytes(raw) != b"null"}

    def take(self, name: str, kind: Any) -> Any:
        """Return a field of a type, None where it is absent. Raises `PromptError`."""
        raw = self._top.pop(name, None)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PromptError(name, f"`{name}` cannot be read: {error}"[:400]) from error

    def require(self, name: str, kind: Any) -> Any:
        """Return a field that must be there. Raises `PromptError`."""
        value = self.take(name, kind)
        if value is None:
            raise PromptError(name, f"`{name}` is missing.")
        return value

    def raw(self, name: str) -> msgspec.Raw | None:
        """Return the bytes of a field."""
        return self._top.pop(name, None)

    def accept(self, name: str, *harmless: Any) -> None:
        """Take a field that may only say what holds anyway. Raises `PromptError`."""
        raw = self._top.pop(name, None)
        if raw is not None and not any(_decode(raw) == each for each in harmless):
            raise unsupported(name)

    def drop(self, prompt: Prompt, names: frozenset[str]) -> None:
        """Drop fields that have no counterpart, and note those that were there."""
        for name in [each for each in self._top if each in names]:
            del self._top[name]
            prompt.drop(name)

    def require_empty(self) -> None:
        """Raise `PromptError` for a field that nobody took."""
        if self._top:
            raise unsupported(min(self._top))


def data_url(url: str) -> Image:
    """Return an image of its address, which may hold it whole."""
    head, found, content = url.partition(";base64,")
    if url.startswith("data:") and found:
        return Image(media_type=head.removeprefix("data:").partition(";")[0], content=content)
    return Image(url=url)


def url_of(image: Image) -> str:
    """Return the address of an image, which may hold it whole."""
    return image.url or f"data:{image.media_type};base64,{image.content}"
