"""What a page asks of those who index it: `noindex`, `nofollow`, `nosnippet`, `max-snippet`.

Reads X-Robots-Tag and meta robots. Knows no other wish yet, and does not decide what follows from one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from interlock.contracts.documents import Signal
from interlock.crawler.domain.types import Headers

AGENT: Final = "interlockbot"
HEADER_NAME: Final = "x-robots-tag"

_FLAGS: Final = {"noindex": ("noindex",), "nofollow": ("nofollow",), "nosnippet": ("nosnippet",),
                 "none": ("noindex", "nofollow")}  # fmt: skip
# Directives with a value of their own, which is no agent's name before a colon.
_VALUED: Final = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_PREFIXED: Final = re.compile(r"([a-z0-9_-]+)\s*:\s*(.*)", re.DOTALL)
_DIGITS_MAX: Final = 9


def page_signals(headers: Headers, meta: Iterable[tuple[str, str]], agent: str = AGENT) -> dict[str, Signal]:
    """Return the signals of a page by name, the strictest of each; `meta` holds name and content of its meta tags.

    Names of headers are lower case. A wish for all agents and one for ours count alike; those for others do not.
    """
    found: dict[str, Signal] = {}
    for name, value in headers:
        if name == HEADER_NAME:
            for directive in _addressed(value.lower(), agent):
                _take(found, directive, "header")
    for name, content in meta:
        if name.strip().lower() in {"robots", agent}:
            for directive in content.lower().split(","):
                _take(found, directive.strip(), "meta")
    return found


def snippet_chars_max(signals: Mapping[str, Signal]) -> int | None:
    """Return how long a passage of the page may be: 0 for `nosnippet`, None without a limit."""
    if "nosnippet" in signals:
        return 0
    limit = signals.get("max_snippet")
    return None if limit is None else int(limit.value)


def _addressed(value: str, agent: str) -> list[str]:
    """Return the directives of a header that are for us; an agent's name holds until the next one."""
    kept: list[str] = []
    is_ours = True
    for part in value.split(","):
        directive = part.strip()
        named = _PREFIXED.fullmatch(directive)
        if named is not None and named[1] not in _VALUED:
            is_ours = named[1] in {agent, "robots"}
            directive = named[2].strip()
        if is_ours:
            kept.append(directive)
    return kept


def _take(found: dict[str, Signal], directive: str, origin: str) -> None:
    for name in _FLAGS.get(directive, ()):
        found.setdefault(name, Signal("1", origin))
    name, colon, value = directive.partition(":")
    chars = value.strip()
    # A negative limit is the publisher's word for none.
    if colon and name.strip() == "max-snippet" and chars.isascii() and chars.isdigit() and len(chars) <= _DIGITS_MAX:
        known = found.get("max_snippet")
        if known is None or int(chars) < int(known.value):
            found["max_snippet"] = Signal(str(int(chars)), origin)
