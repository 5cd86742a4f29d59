"""`repair-search`: mends a program with one wrong place by trying every likely change against the tests.

Understands nothing of the goal. It knows what was tried from the transcript alone, so it goes on after any restart.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from interlock.agents.domain.mutate import Mutant, mutants
from interlock.agents.domain.paths import protected_by
from interlock.agents.domain.policy import PROTECT_DEFAULT
from interlock.agents.domain.transcripts import Exchange, NextCall, Transcript

_BATCH: Final = 40
_BATCH_OF_ENDLESS: Final = 16
_READ_LINES_MAX: Final = 10_000
_TARGETS_MAX: Final = 8
_STUCK_MAX: Final = 2
# What stands around the candidates of a call, and beside it.
_FRAME_CHARS: Final = 200


def next_call(transcript: Transcript, answer_chars_max: int = 1 << 20) -> NextCall:
    """Return the next step: list, read, test, then try in batches, apply what passes, finish.

    A batch holds no more than fits in an answer of `answer_chars_max`, but for a first candidate that does not.
    """
    if not transcript.named("list_files"):
        return NextCall("list_files", {}, "Looking at the files.")
    targets = _targets(transcript)
    read = {exchange.arguments.get("path"): exchange.result for exchange in transcript.named("read_file")}
    for target in targets:
        if target not in read:
            return NextCall("read_file", {"path": target, "limit": _READ_LINES_MAX}, f"Reading {target}.")
    texts = [(target, read[target].get("content") or "") for target in targets if not read[target].get("is_cut")]
    if not transcript.named("run_tests"):
        return NextCall("run_tests", {}, "Running the tests as they are.")
    return _searched(transcript, [text for text in texts if text[1]], answer_chars_max)


def _searched(transcript: Transcript, texts: list[tuple[str, str]], answer_chars_max: int) -> NextCall:
    last = transcript.exchanges[-1]
    passed_before = transcript.named("run_tests")[0].result.get("exit_code") == 0
    if passed_before and last.name == "run_tests":
        return _done("The tests pass as they are.")
    everything = [(path, mutant) for path, text in texts for mutant in mutants(text)]
    # With one list for all files, the likeliest change of each comes before the unlikely ones of the first.
    everything.sort(key=lambda each: each[1].rank)
    if last.name == "apply_edits" and "error" not in last.result:
        return _done(f"Changed {', '.join(last.result.get('paths', ()))}; the tests pass.")
    if last.name == "finish" and _is_applied(transcript):
        return _put_back(transcript, dict(texts))
    if last.name == "try_edits" and last.result.get("passed"):
        first = _position(transcript.named("try_edits")[:-1]) + min(last.result["passed"])
        return NextCall("apply_edits", {"edits": [_edit(*everything[first])]}, "One candidate passes the tests.")
    tried = _position(transcript.named("try_edits"))
    if tried >= len(everything) or _is_stuck(transcript):
        return NextCall("finish", {"summary": f"None of {tried} changes passes.", "status": "gave_up"})
    batch = everything[tried : tried + _size(transcript)]
    candidates = _fitting([{"edits": [_edit(path, mutant)]} for path, mutant in batch], answer_chars_max)
    text = f"Trying changes {tried + 1} to {tried + len(candidates)} of {len(everything)}."
    return NextCall("try_edits", {"candidates": candidates, "stop_at_first": True}, text)


def _targets(transcript: Transcript) -> list[str]:
    if transcript.opening.target is not None:
        return [transcript.opening.target]
    listed: Sequence[Any] = transcript.named("list_files")[0].result.get("files") or ()
    programs = [path for path in listed if isinstance(path, str) and path.endswith(".py")]
    return [path for path in programs if protected_by(PROTECT_DEFAULT, path) is None][:_TARGETS_MAX]


def _fitting(candidates: list[dict[str, Any]], chars_max: int) -> list[dict[str, Any]]:
    room = chars_max - _FRAME_CHARS
    for number, candidate in enumerate(candidates):
        room -= len(json.dumps(candidate)) + 2
        if room < 0:
            return candidates[: max(1, number)]
    return candidates


def _edit(path: str, mutant: Mutant) -> dict[str, str]:
    return {"path": path, "old": mutant.old, "new": mutant.new}


def _done(summary: str) -> NextCall:
    return NextCall("finish", {"summary": summary, "status": "done"})


def _position(tries: Sequence[Exchange]) -> int:
    """Count the candidates that were run."""
    return sum(sum(outcome != "not_run" for outcome in each.result.get("outcomes", ())) for each in tries)


def _size(transcript: Transcript) -> int:
    """Take fewer at a time where the program does not end by itself, as each then takes a second."""
    tries = transcript.named("try_edits")
    if tries:
        is_endless = (tries[-1].result.get("baseline") or {}).get("outcome") == "timeout"
    else:
        is_endless = transcript.named("run_tests")[0].result.get("stopped_by") == "timeout"
    return _BATCH_OF_ENDLESS if is_endless else _BATCH


def _is_stuck(transcript: Transcript) -> bool:
    latest = [exchange for exchange in transcript.exchanges if exchange.name == "try_edits"][-_STUCK_MAX:]
    return len(latest) == _STUCK_MAX and all(_position([each]) == 0 for each in latest)


def _is_applied(transcript: Transcript) -> bool:
    """Tell whether a change of ours is in the tree, not yet put back."""
    for exchange in reversed(transcript.exchanges):
        if exchange.name == "write_file" and "error" not in exchange.result:
            return False
        if exchange.name == "apply_edits" and "error" not in exchange.result:
            return True
    return False


def _put_back(transcript: Transcript, texts: dict[str, str]) -> NextCall:
    path = transcript.named("apply_edits")[-1].arguments["edits"][0]["path"]
    return NextCall("write_file", {"path": path, "content": texts[path]}, "The check refused it; going on.")
