"""Whether a URL belongs to a crawl: its mode, its globs, its depth.

Knows no counts: page and byte budgets are kept where pages are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import re2

from interlock.crawler.domain.spec import ScopeSpec, glob_source
from interlock.crawler.domain.types import CanonicalUrl

IN_SCOPE: Final = "in_scope"


@dataclass(frozen=True, slots=True)
class ScopeVerdict:
    """`rule` names the deciding part: `mode:host`, `include`, `exclude:GLOB`, `depth`."""

    allowed: bool
    rule: str


class ScopeRules:
    """The rules of one crawl, compiled once. `authorities` are those that redirects of seeds added."""

    def __init__(self, spec: ScopeSpec, seeds: Sequence[CanonicalUrl], authorities: Sequence[str] = ()) -> None:
        self._spec = spec
        self._seeds = frozenset(each.url for each in seeds)
        self._authorities = frozenset(each.authority for each in seeds) | frozenset(authorities)
        self._domains = frozenset(each.registered_domain for each in seeds)
        self._prefixes = tuple((each.authority, each.path.rpartition("/")[0] + "/") for each in seeds)
        self._include = [re2.compile(glob_source(each)) for each in spec.include]
        self._exclude = [(each, re2.compile(glob_source(each))) for each in spec.exclude]

    def verdict(self, url: CanonicalUrl, depth: int, *, is_posted: bool = False) -> ScopeVerdict:
        """Judge a URL at `depth` links from its seed; seeds and posted URLs pass mode `list`."""
        if not self._is_of_mode(url, is_posted=is_posted):
            return ScopeVerdict(False, f"mode:{self._spec.mode}")
        for text, pattern in self._exclude:
            if pattern.fullmatch(url.url):
                return ScopeVerdict(False, f"exclude:{text}")
        if self._include and url.url not in self._seeds and not any(p.fullmatch(url.url) for p in self._include):
            return ScopeVerdict(False, "include")
        if depth > self._spec.depth_max:
            return ScopeVerdict(False, "depth")
        return ScopeVerdict(True, IN_SCOPE)

    def _is_of_mode(self, url: CanonicalUrl, *, is_posted: bool) -> bool:
        match self._spec.mode:
            case "host":
                return url.authority in self._authorities
            case "domain":
                return url.registered_domain in self._domains
            case "prefix":
                return any(
                    url.authority == authority and url.path.startswith(path) for authority, path in self._prefixes
                )
            case _:
                return is_posted or url.url in self._seeds
