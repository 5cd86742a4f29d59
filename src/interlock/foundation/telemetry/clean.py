"""Takes secrets out of the free text of a story before it is written anywhere.

Looks at what callers and upstreams wrote; steps, rules and verdicts are the platform's own words.
"""

from collections.abc import Callable
from operator import itemgetter

import msgspec

from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry.records import Addendum, Attempt, Decision, ToldDecision
from interlock.foundation.telemetry.story import Story

# Texts that are remembered, and how long they may be.
_KNOWN_MAX = 4_096
_KNOWN_CHARS_MAX = 256
_detail_of: Callable[[ToldDecision], str] = itemgetter(4)
STORY_TEXTS = ("alias", "client_request_id", "trace_id", "endpoint", "target", "degraded", "tags")
# Those of them that are another one in each story.
STORY_IDS = ("client_request_id", "trace_id")


class Clean:
    """One pass over the joined texts decides; only a suspect is taken apart.

    Stories say the same few things again and again: short texts that were found clean are remembered, a bounded
    number of them and until the redactor learns a new secret.
    """

    __slots__ = ("_generation", "_known", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known: set[str | None] = {None, ""}
        self._generation = redactor.generation

    def story(self, story: Story) -> Story:
        """Return the story, or a redacted copy of it."""
        texts: list[str | None] = [*map(_detail_of, story.decisions), story.target, story.endpoint, story.alias]
        texts += (story.client_request_id, story.trace_id, story.degraded, story.tags)
        for attempt in story.attempts:
            texts += (attempt.error, attempt.upstream_request_id)
        if self._generation != self._redactor.generation:
            self._forget()
        known = self._known
        if known.issuperset(texts) or self.learn([text for text in texts if text is not None and text not in known]):
            return story
        text = self._redactor.text
        changed = {name: self._optional(getattr(story, name)) for name in STORY_TEXTS}
        decisions = [(*words, text(detail)) for *words, detail in story.decisions]
        attempts = [self._attempt(each) for each in story.attempts]
        return msgspec.structs.replace(story, decisions=decisions, attempts=attempts, **changed)

    def learn(self, fresh: list[str]) -> bool:
        """Tell whether texts that nobody has looked at are clean; then they are known, but for the long ones."""
        if self._redactor.is_suspect("\n".join(fresh)):
            return False
        if len(self._known) > _KNOWN_MAX:
            self._forget()
        self._known.update([text for text in fresh if len(text) <= _KNOWN_CHARS_MAX])
        return True

    def addendum(self, addendum: Addendum) -> Addendum:
        """Return the addendum with redacted details."""
        return msgspec.structs.replace(addendum, decisions=self._decisions(addendum.decisions))

    def _forget(self) -> None:
        self._known, self._generation = {None, ""}, self._redactor.generation

    def _decisions(self, decisions: list[Decision]) -> list[Decision]:
        return [msgspec.structs.replace(each, detail=self._redactor.text(each.detail)) for each in decisions]

    def _attempt(self, attempt: Attempt) -> Attempt:
        return msgspec.structs.replace(
            attempt,
            error=self._optional(attempt.error),
            upstream_request_id=self._optional(attempt.upstream_request_id),
        )

    def _optional(self, text: str | None) -> str | None:
        return None if text is None else self._redactor.text(text)
