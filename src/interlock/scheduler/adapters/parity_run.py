"""Runs the parity prompts through an engine: each alone, twice, and all of them at once.

Decides nothing about the answers; `domain/parity.py` compares them.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final, Protocol

import msgspec

from interlock.foundation.errors import BrokenWorldError
from interlock.scheduler.adapters.xllamacpp_engine import refusal_of
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.parity import (
    FILLERS,
    PROMPTS,
    Finding,
    ParityPrompt,
    ParityResult,
    Reference,
    compare,
    references_of,
)

_STORED: Final = "parity_smollm2_135m.json"
RUNS: Final = ("alone", "again", "batched")


class Speaks(Protocol):
    """What a parity run needs of an engine."""

    def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        """Yield events in the shape of OpenAI's stream."""
        ...


async def run_parity(
    engine: Speaks,
    name: str,
    references: Mapping[str, Reference] | None,
    *,
    reference_name: str,
    is_brief: bool = False,
) -> ParityResult:
    """Compare an engine with known answers; without any, with its own first answers.

    A brief run asks each prompt once, at the same time but for those whose beginning shall be found in the cache: what
    a start can afford.
    """
    texts: dict[str, dict[str, str]] = {}
    for run in () if is_brief else RUNS[:2]:
        texts[run] = {each.name: await answer_of(engine, each) for each in PROMPTS}
    asked = PROMPTS if is_brief else (*PROMPTS, *FILLERS)
    later = [each for each in PROMPTS if is_brief and each.is_later]
    texts[RUNS[2]] = await _at_once(engine, [each for each in asked if each not in later])
    texts[RUNS[2]] |= {each.name: await answer_of(engine, each) for each in later}
    findings = []
    for prompt in PROMPTS:
        first = next(iter(texts.values()))[prompt.name]
        known = (references or {}).get(prompt.name) or Reference(first, (), ())
        findings += [compare(prompt.name, run, known, found[prompt.name]) for run, found in texts.items()]
        if not is_brief:
            findings.append(_repeated(prompt, texts))
    return ParityResult(name, reference_name, tuple(findings))


async def answer_of(engine: Speaks, prompt: ParityPrompt) -> str:
    """Return the text of one answer. Raises `InterlockError` where the engine refuses the call."""
    completion = prompt.completion()
    pieces: list[str] = []
    async for event in engine.generate(completion):
        error = refusal_of(event)
        if error is not None:
            raise error
        for choice in event.get("choices", ()):
            piece = (
                choice.get("delta", {}).get("content") if completion.kind is CompletionKind.CHAT else choice.get("text")
            )
            pieces.append(piece or "")
    return "".join(pieces)


def stored_references() -> tuple[str, dict[str, Reference]]:
    """Return the sha256 of the model whose answers are stored, and the answers."""
    content = resources.files("interlock.scheduler.adapters").joinpath(_STORED).read_bytes()
    stored = msgspec.json.decode(content)
    return stored["sha256"], references_of(stored["answers"])


def refuse(result: ParityResult) -> BrokenWorldError:
    """Return the error of an engine that failed."""
    worst = result.refused[0]
    what = f"{result.engine} on prompt {worst.prompt!r}, {worst.run}: {worst.found!r} instead of {worst.expected!r}"
    return BrokenWorldError("parity_failed", what, "use the backend xllamacpp, or another model")


async def _at_once(engine: Speaks, prompts: Sequence[ParityPrompt]) -> dict[str, str]:
    async with asyncio.TaskGroup() as group:
        running = {each.name: group.create_task(answer_of(engine, each)) for each in prompts}
    return {name: task.result() for name, task in running.items()}


def _repeated(prompt: ParityPrompt, texts: Mapping[str, Mapping[str, str]]) -> Finding:
    first, second = texts[RUNS[0]][prompt.name], texts[RUNS[1]][prompt.name]
    return compare(prompt.name, "two runs", Reference(first, (), ()), second)
