"""robots.txt: RFC 9309 with the details of Google's open parser, and the line that decided.

Does not fetch, cache or age a file; what an unreachable one means is the caller's rule.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from interlock.crawler.domain.types import RobotsVerdict

BODY_BYTES_MAX: Final = 500 * 1024
LINE_BYTES_MAX: Final = 8 * 1024
TEXT_CHARS_MAX: Final = 300
ROBOTS_PATH: Final = "/robots.txt"

_KEYS: Final = {
    b"user-agent": "agent", b"useragent": "agent", b"user agent": "agent",
    b"allow": "allow",
    b"disallow": "disallow", b"dissallow": "disallow", b"dissalow": "disallow",
    b"disalow": "disallow", b"diasllow": "disallow", b"disallaw": "disallow",
    b"sitemap": "sitemap", b"site-map": "sitemap",
    b"crawl-delay": "crawl_delay",
    b"content-signal": "content_signal",
}  # fmt: skip
_LINES: Final = re.compile(rb"\r\n|\n|\r")
_TOKEN: Final = re.compile(rb"[A-Za-z_-]*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_DECODED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~*$")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")
_ODD: Final = re.compile(rb"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]")
_PREFIX_CHARS: Final = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow or disallow line. `pieces` are the literal parts between stars; the first one is anchored."""

    is_allow: bool
    pieces: tuple[bytes, ...]
    is_end: bool
    octets: int
    line: int
    text: str

    def matches(self, target: bytes) -> bool:
        """Tell whether the pattern matches from the start of a normalised target; linear in both lengths."""
        if not target.startswith(self.pieces[0]):
            return False
        at = len(self.pieces[0])
        if len(self.pieces) == 1:
            return not self.is_end or at == len(target)
        for piece in self.pieces[1:-1]:
            found = target.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        last = self.pieces[-1]
        if self.is_end:
            return target.endswith(last) and len(target) - len(last) >= at
        return target.find(last, at) >= 0


@dataclass(frozen=True, slots=True)
class ContentSignal:
    """A `Content-Signal` line as it stands, kept as data."""

    line: int
    text: str


class CompiledRobots:
    """The rules of one file for one agent.

    `sitemaps` and `content_signals` belong to the whole file; `crawl_delay_s` is the largest of the agent's groups.
    """

    def __init__(self, kept: "_Kept") -> None:
        self.group = kept.group
        self.crawl_delay_s = kept.delay_s
        self.sitemaps = tuple(kept.sitemaps)
        self.content_signals = tuple(kept.content_signals)
        # The longest pattern decides; of equally long ones an allow does, and of those the first line.
        ordered = sorted(kept.rules, key=lambda rule: (-rule.octets, not rule.is_allow, rule.line))
        self._by_prefix: dict[bytes, list[tuple[int, Rule]]] = {}
        for rank, rule in enumerate(ordered):
            self._by_prefix.setdefault(rule.pieces[0][:_PREFIX_CHARS], []).append((rank, rule))

    def verdict(self, target: str) -> RobotsVerdict:
        """Judge path and query of a canonical URL; robots.txt itself is always allowed (RFC 9309, 2.2.2)."""
        if target == ROBOTS_PATH or not self._by_prefix:
            return RobotsVerdict(allowed=True, group=self.group)
        normal = normalised(target.encode("utf-8", "surrogatepass") or b"/")
        best: tuple[int, Rule] | None = None
        for length in range(_PREFIX_CHARS + 1):
            for rank, rule in self._by_prefix.get(normal[:length], ()) if length <= len(normal) else ():
                if best is not None and rank > best[0]:
                    break
                if rule.matches(normal):
                    best = rank, rule
                    break
        if best is None:
            return RobotsVerdict(allowed=True, group=self.group)
        rule = best[1]
        return RobotsVerdict(rule.is_allow, rule.line, rule.text, self.group)


def parse_robots(body: bytes, agent: str) -> CompiledRobots:
    """Compile a file for an agent `token` or `token/version`; of a longer file the first 500 KiB count.

    A product token is letters, `_` and `-`; an agent with anything else in its name has no group of its own.

    Groups of the token are merged, and win over those of `*` altogether, even when they hold no rule.
    """
    token = agent.partition("/")[0].strip().lower().encode()
    own, others = _Kept(), _Kept()
    own_group: str | None = None
    current: list[_Kept] = []
    has_rules = True
    for line, key, value in _records(body):
        if key == "agent":
            current, has_rules = [] if has_rules else current, False
            if _is_any(value):
                current.append(others)
            elif token and _token_of(value) == token:
                current.append(own)
                own_group = own_group or _text(value)
        elif key in {"allow", "disallow"}:
            has_rules = True
            rules = _rules(is_allow=key == "allow", pattern=value, line=line)
            for kept in current:
                kept.rules += rules
        elif key == "crawl_delay":
            _add_delay(current, value)
        elif key == "sitemap":
            own.sitemaps.append(_text(value, chars_max=LINE_BYTES_MAX))
        else:
            own.content_signals.append(ContentSignal(line, _text(value)))
    if own_group is None:
        own.rules, own.delay_s = others.rules, others.delay_s
    else:
        own.group = own_group
    return CompiledRobots(own)


def normalised(octets: bytes) -> bytes:
    """Return a form in which equal octets are written equally: RFC 9309, 2.2.2, for patterns and targets alike."""
    if b"%" in octets:
        octets = _ESCAPE.sub(_unescaped, octets)
    if _PLAIN.fullmatch(octets) is None:
        octets = _ODD.sub(lambda found: b"%%%02X" % found[0][0], octets)
    return octets


class _Kept:
    """What was read for one agent."""

    def __init__(self) -> None:
        self.group = "*"
        self.rules: list[Rule] = []
        self.delay_s: float | None = None
        self.sitemaps: list[str] = []
        self.content_signals: list[ContentSignal] = []


def _records(body: bytes) -> Iterator[tuple[int, str, bytes]]:
    """Yield line number, key and value of every known record."""
    # Whoever fetches stops at the limit, so a file of just as many octets may be the beginning of a longer one.
    is_cut = len(body) >= BODY_BYTES_MAX
    lines = _LINES.split(body[:BODY_BYTES_MAX].removeprefix(b"\xef\xbb\xbf"))
    # Half a pattern would forbid, or allow, more than the site said.
    for number, line in enumerate(lines[:-1] if is_cut else lines, start=1):
        if len(line) > LINE_BYTES_MAX:
            continue
        record = line.partition(b"#")[0].strip()
        name, colon, value = record.partition(b":")
        if not colon:
            # Google takes a blank for a forgotten colon when exactly two words stand on the line.
            words = record.split()
            if len(words) != 2:
                continue
            name, value = words
        key = _KEYS.get(name.strip().lower())
        if key is not None:
            yield number, key, value.strip()


def _rules(*, is_allow: bool, pattern: bytes, line: int) -> list[Rule]:
    """Return the rule of a line, none for an empty pattern, two for an allowed index page."""
    text = _text((b"Allow: " if is_allow else b"Disallow: ") + pattern)
    is_end = pattern.endswith(b"$")
    # Stars are told apart before escapes are decoded: `%2A` is a star of the path, not of the pattern.
    pieces = tuple(normalised(piece) for piece in pattern[: len(pattern) - is_end].split(b"*"))
    octets = sum(map(len, pieces)) + len(pieces) - 1 + is_end
    rules = [Rule(is_allow, pieces, is_end, octets, line, text)] if octets else []
    folder, slash, page = pieces[-1].rpartition(b"/")
    if is_allow and slash and page.startswith(b"index.htm"):
        # Google: an index page that is allowed by name allows the bare path of its folder too.
        pieces = (*pieces[:-1], folder + slash)
        octets = sum(map(len, pieces)) + len(pieces)
        rules.append(Rule(is_allow, pieces, is_end=True, octets=octets, line=line, text=text))
    return rules


def _add_delay(current: list[_Kept], value: bytes) -> None:
    try:
        delay_s = float(value)
    except ValueError:
        return
    if not math.isfinite(delay_s) or delay_s < 0:
        return
    for kept in current:
        kept.delay_s = delay_s if kept.delay_s is None else max(kept.delay_s, delay_s)


def _token_of(value: bytes) -> bytes:
    found = _TOKEN.match(value)
    return found[0].lower() if found else b""


def _is_any(value: bytes) -> bool:
    return value[:1] == b"*" and (len(value) == 1 or value[1:2].isspace())


def _text(value: bytes, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    return value.decode("utf-8", "replace")[:chars_max]


def _unescaped(found: re.Match[bytes]) -> bytes:
    octet = int(found[1], 16)
    return bytes((octet,)) if octet in _DECODED else found[0].upper()
