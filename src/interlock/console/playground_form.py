"""What the playground's form says and what came of it: read, checked, turned into a call or a case. Pure.

Asks no model and writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Never
from uuid import UUID

from interlock.contracts.inference import ChatAnswer, ChatCall, ModelRefused
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.telemetry import RequestRecord

TOKENS_MAX: Final = 1_000_000
TEMPERATURE_MAX: Final = 2.0
# What a reference has to be for an answer to pass: the word of the form, with the type of the oracle.
ORACLES: Final = {"equals": "the answer is the reference", "contains_all": "the answer contains the reference"}
_NAME_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """The form as it was sent; figures are still texts, so that what cannot be read is shown again."""

    workspace: str = ""
    alias: str = ""
    system: str = ""
    user: str = ""
    max_tokens: str = "512"
    temperature: str = ""
    is_streamed: bool = True

    @property
    def workspace_id(self) -> UUID | None:
        """The workspace that is charged; None where none is named. Raises `not_found`."""
        if not self.workspace:
            return None
        try:
            return parse_id("ws", self.workspace)
        except (MalformedIdError, IndexError) as error:
            raise InterlockError("not_found") from error

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt in the form of the chat API."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call; `text` is what came before it was refused as well."""

    answer: ChatAnswer | None
    refused: ModelRefused | None
    text: str
    request_id: str

    @classmethod
    def of(cls, found: ChatAnswer | ModelRefused, text: str = "") -> "Outcome":
        """Return the outcome of a call, with what of its text was here when it ended."""
        if isinstance(found, ChatAnswer):
            return cls(found, None, found.text, found.request_id)
        return cls(None, found, text, found.request_id or "")


@dataclass(frozen=True, slots=True)
class Told:
    """What the page says beside its form: the outcome of a call, the case that was saved, the story it came from."""

    outcome: Outcome | None = None
    saved: Mapping[str, Any] | None = None
    of_story: str = ""


def asked_of(form: Mapping[str, str]) -> Asked:
    """Return what a form says. A browser sends lines with CR and LF; models are given LF alone."""
    texts = {name: form.get(name, "").replace("\r\n", "\n") for name in ("system", "user")}
    words = {name: form.get(name, "").strip() for name in ("alias", "max_tokens", "temperature")}
    return Asked(workspace=form.get("workspace_id", ""), is_streamed=bool(form.get("stream")), **texts, **words)


def asked_of_story(record: RequestRecord, asked: Asked) -> Asked:
    """Return a form with what a story kept of its request, which is nothing of the content."""
    workspace = asked.workspace or (format_id("ws", record.workspace_id) if record.workspace_id else "")
    return Asked(workspace=workspace, alias=record.alias or "", is_streamed=record.stream)


def call_of(asked: Asked, timeout_s: float) -> ChatCall:
    """Return the call that is asked for. Raises `invalid_request`."""
    if not 0 < len(asked.alias) <= _NAME_CHARS_MAX:
        _wrong("Name a model.", "alias")
    if not asked.user.strip():
        _wrong("There is no message to send.", "user")
    return ChatCall(
        model=asked.alias,
        messages=asked.messages,
        max_tokens=_whole(asked.max_tokens),
        temperature=_temperature(asked.temperature),
        timeout_s=timeout_s,
    )


def case_of(asked: Asked, form: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the suite and the case that a form asks for. Raises `invalid_request`."""
    suite, key = form.get("suite", "").strip(), form.get("key", "").strip()
    reference, oracle = form.get("reference", "").replace("\r\n", "\n"), form.get("oracle", "")
    if not suite or not key or not reference.strip():
        _wrong("A case has a suite, a key and a reference.", "suite")
    if oracle not in ORACLES:
        _wrong("This is no way to hold an answer against a reference.", "oracle")
    if not asked.user.strip():
        _wrong("There is no prompt to keep.", "user")
    value: Any = reference if oracle == "equals" else [reference]
    body = {"key": key, "input": {"messages": asked.messages}, "oracle": [{"type": oracle, "value": value}]}
    request_id = form.get("request_id", "")
    return suite, {**body, "provenance": request_id} if request_id else body


def _whole(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= TOKENS_MAX or len(text) > 9:
        _wrong(f"The most tokens are a whole number from 1 to {TOKENS_MAX:,}.", "max_tokens")
    return int(text)


def _temperature(text: str) -> float | None:
    if not text:
        return None
    try:
        found = float(text.replace(",", "."))
    except ValueError:
        found = -1.0
    if not 0 <= found <= TEMPERATURE_MAX:
        _wrong(f"The temperature is a number from 0 to {TEMPERATURE_MAX:g}.", "temperature")
    return found


def _wrong(message: str, field: str) -> Never:
    raise InterlockError("invalid_request", message, detail={"field": field})
