"""The one sentence of an explanation: what happened to a URL and which rule decided, in words.

Knows no store; the facts come in.
"""

from collections.abc import Mapping
from typing import Any, Final

_REFUSED: Final = {
    "egress_blocked": "Its host leads to an address that this platform does not dial.",
    "offscope": "It lies outside the scope of the crawl.",
    "invalid_url": "It is no URL that can be fetched.",
    "trap_depth": "Its path is deeper than pages are.",
    "trap_repeat": "Its path repeats itself, as endless spaces of links do.",
    "trap_query": "Its query has more keys than pages need.",
    "trap_calendar": "It names a date that lies too far ahead.",
    "trap_low_novelty": "Pages of its kind brought almost nothing new.",
    "trap_template_budget": "The crawl has enough pages of its kind.",
    "budget_pages": "The crawl's budget of pages is used up.",
    "budget_pages_per_host": "The crawl's budget of pages for this host is used up.",
    "budget_bytes": "The crawl's budget of bytes is used up.",
    "crawl_delay_too_long": "The host's robots.txt asks for a delay that is longer than a crawl waits.",
    "unsupported_type": "What the host sent is not a page.",
    "redirect_loop": "It was redirected too often.",
    "redirect_invalid": "It redirects to something that is no URL to fetch.",
    "body_too_large": "Its body is larger than a page may be.",
    "decompression_bomb": "Its body unpacks to far more than it is.",
    "sitemap_invalid": "What the host sent is no sitemap.",
}


def sentence_of(verdict: str, rule: str, facts: Mapping[str, Any]) -> str:
    """Return the sentence; it names the rule's own numbers where there are some."""
    speak = _SPEAKERS.get(verdict)
    return speak(rule, facts) if speak is not None else "Nothing is known of it."


def _fetched(_rule: str, facts: Mapping[str, Any]) -> str:
    row = facts["row"]
    if row["reason"] == "redirect":
        return f"It redirects to {facts['detail'].get('location', 'another URL')}, which is a URL of its own."
    where = "and its document is in the index" if row["is_delivered"] else "and has no document in the index yet"
    return f"It was fetched with status {row['http_status']}, {where}."


def _waiting(rule: str, _facts: Mapping[str, Any]) -> str:
    if rule.startswith("crawl_"):
        return f"It waits because the crawl is {rule.removeprefix('crawl_')}."
    if rule.startswith("backpressure_"):
        return f"It waits because nothing more is taken now: {rule.removeprefix('backpressure_')}."
    if rule.startswith("retry_"):
        return f"Its last visit failed with {rule.removeprefix('retry_')}; it is tried again."
    if rule == "host_blocked":
        return "It waits because an operator has blocked its host."
    if rule == "host_delay":
        return "It waits for its turn at its host."
    return f"It waits because its host is left alone for now: {rule}."


def _refused(rule: str, facts: Mapping[str, Any]) -> str:
    if rule == "robots_denied":
        robots, detail = facts["robots"], facts["detail"]
        line = detail.get("line") or (robots.line if robots else 0)
        text = detail.get("text") or (robots.text if robots else "")
        return f"The host's robots.txt disallows it in line {line}: {text}"
    if rule.startswith("signal_"):
        signal = facts["detail"].get("signals", {}).get(rule.removeprefix("signal_"), {})
        return f"The page says {rule.removeprefix('signal_')} in its {signal.get('origin', 'signals')}."
    return _REFUSED.get(rule, f"The index or a rule refused it: {rule}.")


def _duplicate(_rule: str, facts: Mapping[str, Any]) -> str:
    return f"Its text is the same as that of {facts['first'] or 'another URL'}, which has the document."


def _dead(rule: str, facts: Mapping[str, Any]) -> str:
    return f"It failed {facts['row']['attempt'] or 'too many'} times, last with {rule}, and is tried no more."


def _gone(rule: str, _facts: Mapping[str, Any]) -> str:
    return f"The host says that it is gone ({rule})."


def _unknown(_rule: str, facts: Mapping[str, Any]) -> str:
    robots = facts["robots"]
    told = "its robots.txt is not known yet" if robots is None else "the host's robots.txt allows it"
    return f"The crawl has never seen it; it would be in scope, and {told}."


_SPEAKERS: Final = {
    "fetched": _fetched,
    "waiting": _waiting,
    "refused": _refused,
    "duplicate": _duplicate,
    "dead": _dead,
    "gone": _gone,
    "unknown": _unknown,
}
