"""Takes secrets out of the free text of a story before it is written anywhere.

Looks at what callers and upstreams wrote; steps, rules and verdicts are the platform's own words.
"""

import msgspec

from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry.records import Addendum, Attempt, Decision, NoteFields, RequestRecord

_NOTE_TEXTS = ("alias", "client_request_id", "trace_id", "endpoint")
_RECORD_TEXTS = (*_NOTE_TEXTS, "target", "degraded")


class Clean:
    """One pass over the joined text decides; only a suspect is taken apart."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def text(self, text: str) -> str:
        """Return one text redacted."""
        return self._redactor.text(text)

    def record(self, record: RequestRecord) -> RequestRecord:
        """Return the record, or a redacted copy of it."""
        texts = [each.detail for each in record.decisions]
        texts += (record.target, record.endpoint, record.alias or "", record.client_request_id or "")
        texts += (record.trace_id or "", record.degraded or "")
        for attempt in record.attempts:
            texts += (attempt.error or "", attempt.upstream_request_id or "")
        if not self._redactor.is_suspect("\n".join(texts)):
            return record
        changed = {name: self._optional(getattr(record, name)) for name in _RECORD_TEXTS}
        decisions, attempts = self._decisions(record.decisions), [self._attempt(each) for each in record.attempts]
        return msgspec.structs.replace(record, decisions=decisions, attempts=attempts, **changed)

    def note(self, fields: NoteFields) -> NoteFields:
        """Return the note, or a redacted copy of it."""
        texts = [str(fields.get(name) or "") for name in _NOTE_TEXTS]
        texts += [each.detail for each in fields.get("decisions", ())]
        if not self._redactor.is_suspect("\n".join(texts)):
            return fields
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
