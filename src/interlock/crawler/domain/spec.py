"""What a crawl was asked to do: the fields of a CrawlSpec, their defaults and their bounds.

Values whose part is not built are refused here by name; nothing accepts a setting that would do nothing.
"""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import re2

SEEDS_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 200
PATTERN_CHARS_MAX: Final = 2_048
PATTERNS_MAX: Final = 100
DELAY_S_FLOOR: Final = 1.0
CONCURRENCY_MAX: Final = 32
MODES: Final = ("host", "domain", "prefix", "list")


class ScopeSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which URLs belong to the crawl; exclude beats include."""

    mode: str = "host"
    include: list[str] = []
    exclude: list[str] = []
    depth_max: int = 16


class Budgets(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the crawl may use up."""

    pages: int = 10_000
    bytes: int = 10 * (1 << 30)
    pages_per_host: int = 5_000
    per_day: int | None = None


class Politeness(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The least seconds between two requests of a host, and the most at once."""

    delay_s: float = 1.0
    concurrency: int = 1


class Sources(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where URLs come from."""

    links: bool = True
    sitemaps: bool = True
    feeds: bool = False


class Recrawl(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """When a page is visited again, and after how many 404s it is gone."""

    mode: str = "once"
    gone_after: int = 1


class Audience(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Who may read the documents."""

    kind: str = "workspace"
    groups: list[str] = []


class CrawlSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """All that can be said about a crawl; only seeds are required."""

    seeds: list[str]
    name: str = ""
    scope: ScopeSpec = msgspec.field(default_factory=ScopeSpec)
    budgets: Budgets = msgspec.field(default_factory=Budgets)
    politeness: Politeness = msgspec.field(default_factory=Politeness)
    sources: Sources = msgspec.field(default_factory=Sources)
    recrawl: Recrawl = msgspec.field(default_factory=Recrawl)
    ai_signals: str = "obey"
    near_duplicates: str = "keep"
    extract: str = "markdown"
    render: str = "never"
    audience: Audience = msgspec.field(default_factory=Audience)
    credentials: list[dict[str, str]] = []
    archive: str = "none"
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """A field that cannot be; `reason` completes the sentence "`field` ..."."""

    field: str
    reason: str


_ONLY: Final[tuple[tuple[str, Callable[[CrawlSpec], Any], Any], ...]] = (
    ("archive", lambda spec: spec.archive, "none"),
    ("recrawl.mode", lambda spec: spec.recrawl.mode, "once"),
    ("near_duplicates", lambda spec: spec.near_duplicates, "keep"),
    ("render", lambda spec: spec.render, "never"),
    ("ai_signals", lambda spec: spec.ai_signals, "obey"),
    ("sources.feeds", lambda spec: spec.sources.feeds, False),
    ("budgets.per_day", lambda spec: spec.budgets.per_day, None),
    ("credentials", lambda spec: spec.credentials, []),
)


def problem_of(spec: CrawlSpec) -> SpecProblem | None:
    """Return the first thing that is wrong with a spec, seeds' own form and politeness floors aside."""
    for name, value, only in _ONLY:
        if value(spec) != only:
            return SpecProblem(name, f"can only be {msgspec.json.encode(only).decode()} in this version")
    if spec.extract not in {"markdown", "none"}:
        return SpecProblem("extract", 'can only be "markdown" or "none" in this version')
    return _bounds_problem(spec) or _pattern_problem(spec)


def _bounds_problem(spec: CrawlSpec) -> SpecProblem | None:
    checks = (
        ("seeds", 1 <= len(spec.seeds) <= SEEDS_MAX, f"holds 1 to {SEEDS_MAX} URLs"),
        (
            "name",
            len(spec.name) <= NAME_CHARS_MAX and "\x00" not in spec.name,
            f"has at most {NAME_CHARS_MAX} characters",
        ),
        ("scope.mode", spec.scope.mode in MODES, f"is one of {', '.join(MODES)}"),
        ("scope.depth_max", 0 <= spec.scope.depth_max <= 1_000, "is from 0 to 1000"),
        ("budgets.pages", 1 <= spec.budgets.pages <= 100_000_000, "is at least 1"),
        ("budgets.bytes", 1 <= spec.budgets.bytes <= 1 << 50, "is at least 1"),
        ("budgets.pages_per_host", 1 <= spec.budgets.pages_per_host <= 100_000_000, "is at least 1"),
        ("politeness.delay_s", 0 <= spec.politeness.delay_s <= 86_400, "is from 0 to 86400"),
        ("politeness.concurrency", 1 <= spec.politeness.concurrency <= CONCURRENCY_MAX, f"is 1 to {CONCURRENCY_MAX}"),
        ("recrawl.gone_after", 1 <= spec.recrawl.gone_after <= 100, "is from 1 to 100"),
        ("audience.kind", spec.audience.kind in {"workspace", "groups"}, "is workspace or groups"),
        ("audience.groups", (spec.audience.kind == "groups") == bool(spec.audience.groups), "goes with kind groups"),
        ("weight", 0.01 <= spec.weight <= 100, "is from 0.01 to 100"),
    )
    return next((SpecProblem(name, reason) for name, is_good, reason in checks if not is_good), None)


def _pattern_problem(spec: CrawlSpec) -> SpecProblem | None:
    for name, patterns in (("scope.include", spec.scope.include), ("scope.exclude", spec.scope.exclude)):
        if len(patterns) > PATTERNS_MAX:
            return SpecProblem(name, f"holds at most {PATTERNS_MAX} globs")
        for each in patterns:
            if not is_glob(each):
                return SpecProblem(name, f"holds a glob that is empty, too long or badly bracketed: {each[:80]!r}")
    return None


def is_glob(text: str) -> bool:
    """Tell whether a text can be a glob over URLs."""
    if not (0 < len(text) <= PATTERN_CHARS_MAX and text.isprintable() and text.count("[") == text.count("]")):
        return False
    try:
        re2.compile(glob_source(text), _quiet())
    except re2.error:
        # A class such as `[z-a]` is balanced and still says nothing.
        return False
    return True


def _quiet() -> re2.Options:
    """Return options that keep a caller's broken glob out of the process's log."""
    options = re2.Options()
    options.log_errors = False
    return options


def glob_source(pattern: str) -> str:
    """Return the regular expression of a glob: `*` stays within a segment, `**` crosses them, `?` is one character."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            out.append(".*")
            at += 2
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", at + 1)) > at:
            inner = fnmatch.translate(pattern[at : end + 1]).removeprefix("(?s:").removesuffix(")\\Z")
            out.append(inner)
            at = end
        else:
            out.append("\\" + char if not char.isalnum() and ord(char) < 128 else char)
        at += 1
    return "".join(out)
