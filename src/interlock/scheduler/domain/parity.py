"""Whether an engine says what its reference says: twelve greedy prompts, and how two answers are compared.

Runs no engine; `adapters/parity_run.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.scheduler.domain.completion import Completion, CompletionKind

TOKENS: Final = 16
# Two engines add the same numbers in another order: where the best two tokens are this close, either may win.
GAP_MIN: Final = 0.1
STREAMS: Final = 16

_ORDER = (
    "Order 4711 was placed on Monday. It holds two lamps, one chair and a box of screws. The lamps left the warehouse "
    "on Tuesday, the chair on Thursday. The box of screws is out of stock until the tenth of May. The customer asked "
    "for one delivery, but agreed to two when the chair was late. "
)


@dataclass(frozen=True, slots=True)
class ParityPrompt:
    """One prompt: chat messages, or plain text to go on with; `is_later`: its beginning is in the cache by then."""

    name: str
    user: str = ""
    system: str = ""
    prompt: str = ""
    stop: tuple[str, ...] = ()
    is_later: bool = False

    def completion(self) -> Completion:
        """Return the call: greedy, sixteen tokens."""
        parameters: dict[str, Any] = {"temperature": 0.0, "max_tokens": TOKENS}
        if self.stop:
            parameters["stop"] = list(self.stop)
        if self.prompt:
            return Completion(
                CompletionKind.TEXT,
                is_stream=True,
                includes_usage=True,
                parameters={"prompt": self.prompt, **parameters},
            )
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": self.user})
        return Completion(
            CompletionKind.CHAT, is_stream=True, includes_usage=True, parameters={"messages": messages, **parameters}
        )


# Each goes on in one way only, so that an undecided model is not mistaken for a wrong engine.
PROMPTS: Final = (
    ParityPrompt("short", user="Count from one to ten in words."),
    ParityPrompt("short plain", prompt="1, 2, 3, 4, 5, 6, 7,"),
    ParityPrompt("short even", prompt="2, 4, 6, 8, 10, 12,"),
    ParityPrompt(
        "longer than a chunk",
        user=f"{_ORDER * 2}\nWhen did the lamps leave the warehouse? Answer with one sentence.",
    ),
    ParityPrompt("longer than a chunk, plain", prompt=f"{_ORDER * 4}Order 4711 was placed on"),
    ParityPrompt("shared prefix, one", prompt=f"{_ORDER * 2}Order 4711", is_later=True),
    ParityPrompt("shared prefix, two", prompt=f"{_ORDER * 2}The lamps left the warehouse on", is_later=True),
    ParityPrompt(
        "answer in the context",
        prompt="Question: The cat is called Mina. What is the name of the cat?\nAnswer: The name of the cat is",
    ),
    ParityPrompt(
        "answer in the context, plain", prompt="The word is lamp. Question: what is the word?\nAnswer: The word is"
    ),
    ParityPrompt("unicode", user="Repeat: schön, Straße, Köln, Übung, größer, Bär."),
    ParityPrompt("unicode plain", prompt="Москва, Москва, Москва,"),
    ParityPrompt("stop word", prompt="10, 20, 30, 40, 50,", stop=("80",)),
)
FILLERS: Final = tuple(
    ParityPrompt(f"filler {number}", user=f"Tell a story of {number} ships.")
    for number in range(STREAMS - len(PROMPTS))
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A known answer: its text, where each token ends in its UTF-8 bytes, and the gap of the best two at each."""

    text: str
    ends: tuple[int, ...]
    gaps: tuple[float, ...]

    def token_at(self, offset: int) -> int:
        """Return the index of the token that holds the byte at `offset`; the last one for what comes after the end."""
        return next((at for at, end in enumerate(self.ends) if offset < end), len(self.ends) - 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one prompt in one run; `token` counts from 1, `gap` is the reference's there."""

    prompt: str
    run: str
    is_equal: bool
    token: int | None = None
    gap: float | None = None
    expected: str = ""
    found: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the answers are equal, or part where the reference was undecided."""
        return self.is_equal or (self.gap is not None and self.gap < GAP_MIN)


def compare(prompt: str, run: str, reference: Reference, text: str) -> Finding:
    """Compare an answer with the known one up to their first difference."""
    wanted, found = reference.text.encode(), text.encode()
    if wanted == found:
        return Finding(prompt, run, is_equal=True)
    offset = next(
        (at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other),
        min(len(wanted), len(found)),
    )
    token = reference.token_at(offset) if reference.ends else None
    return Finding(
        prompt,
        run,
        is_equal=False,
        token=None if token is None else token + 1,
        gap=None if token is None else reference.gaps[token],
        expected=reference.text,
        found=text,
    )


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The verdict over all prompts and runs."""

    engine: str
    reference: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every difference is an allowed one."""
        return all(each.is_allowed for each in self.findings)

    @property
    def refused(self) -> Sequence[Finding]:
        """The differences that are not allowed."""
        return [each for each in self.findings if not each.is_allowed]

    def view(self) -> dict[str, Any]:
        """Return the verdict as it is kept and shown."""
        return {
            "engine": self.engine,
            "reference": self.reference,
            "passed": self.passed,
            "compared": len(self.findings),
            "equal": sum(each.is_equal for each in self.findings),
            "undecided": sum(each.is_allowed and not each.is_equal for each in self.findings),
            "refused": [
                {
                    "prompt": each.prompt,
                    "run": each.run,
                    "token": each.token,
                    "gap": each.gap,
                    "expected": each.expected,
                    "found": each.found,
                }
                for each in self.refused
            ],
        }


def references_of(stored: Mapping[str, Any]) -> dict[str, Reference]:
    """Return stored answers by prompt. Raises `KeyError` or `TypeError` for a file of another shape."""
    return {name: Reference(each["text"], tuple(each["ends"]), tuple(each["gaps"])) for name, each in stored.items()}
