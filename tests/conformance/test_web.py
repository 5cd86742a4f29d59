"""URLs against the WHATWG's cases, registered domains against the list's own, charsets against html5lib's."""

import json
import re

from interlock.crawler.domain.charset import codec_by_label, codec_of
from interlock.crawler.domain.types import CanonicalUrl, UrlRefused
from interlock.crawler.domain.urls import canonicalise, registered_domain
from tests.conformance import get

# A label whose punycode overflows passes ada's parser; no resolver knows such a name.
OVERFLOWS = "xn--pokxncvks"


def _cases() -> list[dict]:
    rows = json.loads(get.one("url", "urltestdata.json").read_text(encoding="utf-8"))
    return [row for row in rows if isinstance(row, dict)]


def _is_web(row: dict) -> bool:
    return row.get("href", "").startswith(("http://", "https://"))


def test_every_case_of_the_web_parses_as_the_standard_says():
    """Our rules apply to both sides: what is dropped or decoded is the same for the input and for its serialisation."""
    rows = [row for row in _cases() if _is_web(row)]
    assert len(rows) == 211
    for row in rows:
        base = row.get("base")
        found = canonicalise(row["input"], base if base and base != "about:blank" else None)
        if row.get("username") or row.get("password"):
            assert found == UrlRefused(row["input"], "userinfo")
            continue
        wanted = canonicalise(row["href"])
        if row["hostname"].endswith(".") and isinstance(wanted, UrlRefused):
            # Without the dot behind the host, which we drop, there is no host, or none that may be.
            assert found == UrlRefused(row["input"], wanted.rule)
            assert wanted.rule in {"no_host", "malformed"}
            continue
        assert isinstance(wanted, CanonicalUrl), row
        assert found == wanted, row
        if re.fullmatch(r"[^#%]*[^#%?]", row["href"]):
            assert found.url == row["href"], row


def test_what_must_fail_fails():
    rows = [row for row in _cases() if row.get("failure") and row.get("base", "about:blank") in {None, "about:blank"}]
    assert len(rows) > 100
    kept = [row["input"] for row in rows if isinstance(canonicalise(row["input"]), CanonicalUrl)]
    assert all(OVERFLOWS in each.lower() for each in kept), kept
    assert len(kept) == 6


def test_registered_domains():
    """Rows without a registered domain are the host itself here: a host always belongs to somebody."""
    text = get.one("publicsuffix", "test_psl.txt").read_text(encoding="utf-8")
    rows = re.findall(r"^checkPublicSuffix\('([^']+)', (?:'([^']+)'|null)\);", text, re.MULTILINE)
    assert len(rows) > 60
    for host, domain in rows:
        found = canonicalise(f"http://{host}/")
        if host.startswith("."):
            assert isinstance(found, UrlRefused) or found.registered_domain
            continue
        assert isinstance(found, CanonicalUrl)
        wanted = canonicalise(f"http://{domain or host}/")
        assert found.registered_domain == wanted.host, host
    assert registered_domain("127.0.0.1") == "127.0.0.1"


def test_charsets_are_sniffed_as_html5lib_s_cases_say():
    wrong, judged = [], 0
    for name in ("tests1.dat", "tests2.dat", "test-yahoo-jp.dat"):
        raw = get.one("html5lib", f"testdata/encoding/{name}").read_bytes()
        for case in raw.split(b"#data\n")[1:]:
            body, _, label = case.partition(b"\n#encoding\n")
            judged += 1
            wanted = codec_by_label(label.strip().decode())
            if wanted is None or codec_of(body, None) != wanted:
                wrong.append(body)
    assert judged > 60
    # The standard looks at one kilobyte and runs no script before it knows the charset; html5lib does more there.
    assert [body for body in wrong if len(body) <= 1_024 and b"document.write" not in body] == []
    assert len(wrong) == 8


def test_charsets_of_w3lib_s_fragments():
    known = get.constants(get.one("w3lib", "tests/test_encoding.py"))
    fragments = known["utf8_fragments"]
    read = {fragment: codec_of(fragment, None) for fragment in fragments}
    others = {fragment for fragment, codec in read.items() if codec != "utf-8"}
    # `< meta` is no tag and an XML declaration is none of HTML; the standard reads neither.
    assert all(b"< meta" in each or each.startswith(b"<?xml") or b'text/html" charset' in each for each in others)
    assert len(fragments) - len(others) >= 6
