"""Typed personal data in a text: mail addresses, phone numbers, cards, IBANs, and secrets by their form.

Finds no names of people; that needs a model.
"""

from dataclasses import dataclass
from typing import Final

import re2

from interlock.foundation.redaction import Redactor

_FORMS: Final = (
    ("email", re2.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}")),
    ("iban", re2.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("card", re2.compile(r"\b[0-9](?:[ -]?[0-9]){12,18}\b")),
    (
        "phone",
        re2.compile(
            r"\+[0-9]{1,3}[ (/-]{0,2}(?:[0-9][ ()/-]{0,2}){6,12}[0-9]|\(0?[0-9]{2,4}\) ?[0-9]{3,4}[ -]?[0-9]{3,4}"
        ),
    ),
)


_SECRETS: Final = Redactor()


@dataclass(frozen=True, slots=True)
class Found:
    """One find; `start` and `end` count characters of the text."""

    kind: str
    start: int
    end: int


def find_pii(text: str) -> list[Found]:
    """Return the finds in order; of two that overlap the earlier kind of the list is kept."""
    found = [Found("secret", start, end) for start, end, _ in _SECRETS.spans(text)]
    for kind, form in _FORMS:
        for match in form.finditer(text):
            start, end = match.span()
            if _CHECKS.get(kind, _always)(match.group()) and not any(
                each.start < end and start < each.end for each in found
            ):
                found.append(Found(kind, start, end))
    return sorted(found, key=lambda each: each.start)


def redact(text: str) -> tuple[str, list[Found]]:
    """Return the text with every find replaced by `[KIND]`, and the finds by their place in the original."""
    found = find_pii(text)
    parts: list[str] = []
    at = 0
    for each in found:
        parts += (text[at : each.start], f"[{each.kind}]")
        at = each.end
    return "".join([*parts, text[at:]]), found


def _luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [each * 2 - 9 * (each > 4) if place % 2 else each for place, each in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    bare = text.replace(" ", "")
    return len(bare) >= 15 and int("".join(str(int(char, 36)) for char in bare[4:] + bare[:4])) % 97 == 1


def _always(_text: str) -> bool:
    return True


_CHECKS: Final = {"card": _luhn, "iban": _iban}
