"""Takes secrets out of the free text of a story before it is written anywhere.

Looks at what callers and upstreams wrote; steps, rules and verdicts are the platform's own words.
"""

import msgspec

from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry.records import Addendum, Attempt, Decision, NoteFields, RequestRecord

_NOTE_TEXTS = ("alias", "client_request_id", "trace_id", "endpoint")
# Texts that are remembered, and how long they may be.
_KNOWN_MAX = 4_096
_KNOWN_CHARS_MAX = 128
_RECORD_TEXTS = (*_NOTE_TEXTS, "target", "degraded")


class Clean:
    """One pass over the joined texts decides; only a suspect is taken apart.

    Stories say the same few things again and again: short texts that were found clean are remembered, a bounded
    number of them and until the redactor learns a new secret.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known: set[str] = {""}
        self._generation = redactor.generation

    def opened(self, target: str, fields: NoteFields) -> tuple[str, NoteFields]:
        """Return the target and the note of a request that begins, redacted."""
        if self._is_suspect([target, *_texts_of(fields)]):
            return self._redactor.text(target), self._note(fields)
        return target, fields

    def record(self, record: RequestRecord) -> RequestRecord:
        """Return the record, or a redacted copy of it."""
        texts: list[str | None] = [each.detail for each in record.decisions]
        texts += (record.target, record.endpoint, record.alias, record.client_request_id)
        texts += (record.trace_id, record.degraded)
        for attempt in record.attempts:
            texts += (attempt.error, attempt.upstream_request_id)
        if not self._is_suspect(texts):
            return record
        changed = {name: self._optional(getattr(record, name)) for name in _RECORD_TEXTS}
        decisions, attempts = self._decisions(record.decisions), [self._attempt(each) for each in record.attempts]
        return msgspec.structs.replace(record, decisions=decisions, attempts=attempts, **changed)

    def note(self, fields: NoteFields) -> NoteFields:
        """Return the note, or a redacted copy of it."""
        return self._note(fields) if self._is_suspect(_texts_of(fields)) else fields

    def _is_suspect(self, texts: list[str | None]) -> bool:
        redactor, known = self._redactor, self._known
        if self._generation != redactor.generation or len(known) > _KNOWN_MAX:
            self._generation = redactor.generation
            self._known = known = {""}
        fresh = [text for text in texts if text is not None and text not in known]
        if not fresh:
            return False
        if redactor.is_suspect("\n".join(fresh)):
            return True
        known.update([text for text in fresh if len(text) <= _KNOWN_CHARS_MAX])
        return False

    def _note(self, fields: NoteFields) -> NoteFields:
        known = {name: self._redactor.value(fields[name]) for name in _NOTE_TEXTS if name in fields}  # type: ignore[literal-required] # names of the same keys
        cleaned: NoteFields = {**fields, **known}  # type: ignore[typeddict-item] # the same keys and types
        if "decisions" in fields:
            cleaned["decisions"] = self._decisions(fields["decisions"])
        return cleaned

    def addendum(self, addendum: Addendum) -> Addendum:
        """Return the addendum with redacted details."""
        return msgspec.structs.replace(addendum, decisions=self._decisions(addendum.decisions))

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


def _texts_of(fields: NoteFields) -> list[str | None]:
    texts: list[str | None] = [each.detail for each in fields.get("decisions", ())]
    texts += (fields.get("alias"), fields.get("client_request_id"), fields.get("trace_id"), fields.get("endpoint"))
    return texts
