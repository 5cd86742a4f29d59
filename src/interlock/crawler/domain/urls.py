"""URLs in the one form that is fetched, and the keys under which they and their hosts are stored.

Rules version 1. Does not decide whether a URL may be fetched: scope, robots and egress do.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote
from uuid import UUID

import ada_url
import xxhash
from publicsuffixlist import PublicSuffixList

from interlock.crawler.domain.types import CanonicalUrl, UrlRefused

RULES_VERSION: Final = 1
URL_BYTES_MAX: Final = 2_048
PORTS: Final = {"http": 80, "https": 443}

_ROUNDS_MAX: Final = 4
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_SCHEME: Final = re.compile(r"^[\x00-\x20]*([A-Za-z][A-Za-z0-9+.-]*):")
_SESSION_PATH: Final = re.compile(r";jsessionid=[^/;]*", re.IGNORECASE)
_TRACKERS: Final = frozenset({"gclid", "fbclid", "msclkid", "mc_cid", "mc_eid", "_ga", "igshid"})
_SESSION_KEYS: Final = frozenset({"phpsessid", "sid", "sessionid"})
_SESSION_VALUE: Final = re.compile(r"[0-9A-Fa-f]{32}")
_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")


def canonicalise(raw: str, base: str | None = None) -> CanonicalUrl | UrlRefused:
    """Return the canonical form of `raw`, read against `base` where it is relative.

    The WHATWG parse, then: http(s) only, no userinfo, no fragment, no dot behind the host, unreserved escapes decoded,
    others in upper case, empty queries, trackers and session ids removed. The result is a fixed point: its canonical
    form is itself.
    """
    if len(raw) > URL_BYTES_MAX or len(raw.encode("utf-8", "surrogatepass")) > URL_BYTES_MAX:
        return UrlRefused(raw, "too_long")
    try:
        href = ada_url.normalize_url(raw) if base is None else ada_url.join_url(base, raw)
    except ValueError:
        return UrlRefused(raw, _why_malformed(raw))
    found = _settled(href)
    return UrlRefused(raw, found) if isinstance(found, str) else found


def url_key(url: str, seed: int) -> UUID:
    """Return the key of a canonical URL; `seed` is the installation's own, so that keys cannot be made elsewhere."""
    return UUID(int=xxhash.xxh3_128_intdigest(url.encode(), seed=seed))


def host_hash(authority: str) -> int:
    """Return xxh3_64 of `scheme://host:port` as the signed number that a bigint holds."""
    unsigned: int = xxhash.xxh3_64_intdigest(authority.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


@lru_cache(maxsize=65_536)
def registered_domain(host: str) -> str:
    """Return the name under a public suffix; an IP literal, a suffix and a name without dots are their own domain."""
    if is_ip_literal(host):
        return host
    return _suffixes().privatesuffix(host.rstrip(".")) or host


def is_public_suffix(host: str) -> bool:
    """Tell whether anybody may take names directly under this one."""
    return not is_ip_literal(host) and _suffixes().privatesuffix(host) is None


def is_ip_literal(host: str) -> bool:
    """Tell whether the host of a canonical URL is an address; the parser has made every IPv4 form a dotted quad."""
    return host.startswith("[") or _IPV4.fullmatch(host) is not None


def _settled(href: str) -> CanonicalUrl | str:
    """Return the canonical parts of a parsed URL, or the rule that refuses it."""
    for _ in range(_ROUNDS_MAX):
        scheme, _, rest = href.partition(":")
        if scheme not in PORTS:
            return "scheme"
        authority, path, query = _split(rest)
        if "@" in authority:
            return "userinfo"
        authority = _undotted(authority)
        if not authority or authority.startswith(":"):
            return "no_host"
        cleaned = _joined(scheme, authority, _clean_path(path), _clean_query(query))
        if len(cleaned) > URL_BYTES_MAX:
            return "too_long"
        if cleaned == href:
            return _parts(cleaned, scheme, authority, path, query)
        # What was decoded or removed may have made a segment like `..`, which the parser resolves.
        try:
            href = ada_url.normalize_url(cleaned)
        except ValueError:
            # Without the dot behind it the host is a number that is no address.
            break
    return "malformed"


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def _split(rest: str) -> tuple[str, str, str]:
    """Split `//authority/path?query#fragment` of a serialised URL."""
    rest = rest.partition("#")[0]
    target, _, query = rest.partition("?")
    authority, _, path = target[2:].partition("/")
    return authority, f"/{path}", query


def _undotted(authority: str) -> str:
    """Drop the root's dot behind a name: it is the same host, with one delay, one block and one document a page."""
    if "." not in authority or authority.endswith("]"):
        return authority
    host, colon, port = authority.partition(":") if not authority.startswith("[") else (authority, "", "")
    return f"{host.rstrip('.')}{colon}{port}"


def _joined(scheme: str, authority: str, path: str, query: str) -> str:
    return f"{scheme}://{authority}{path}?{query}" if query else f"{scheme}://{authority}{path}"


def _parts(url: str, scheme: str, authority: str, path: str, query: str) -> CanonicalUrl:
    host, _, port_text = authority.rpartition(":")
    if not host or authority.endswith("]"):
        host, port_text = authority, ""
    port = int(port_text) if port_text else PORTS[scheme]
    return CanonicalUrl(url, scheme, host, port, f"{scheme}://{host}:{port}", registered_domain(host), path, query)


def _clean_path(path: str) -> str:
    if "%" in path:
        path = _ESCAPE.sub(_unescaped, path)
    return _SESSION_PATH.sub("", path) if ";" in path else path


def _clean_query(query: str) -> str:
    if not query:
        return ""
    if "%" in query:
        query = _ESCAPE.sub(_unescaped, query)
    return "&".join(part for part in query.split("&") if not _is_dropped(part))


def _is_dropped(part: str) -> bool:
    name, _, value = part.partition("=")
    name = unquote(name).lower()
    if name.startswith("utm_") or name in _TRACKERS:
        return True
    return name in _SESSION_KEYS and _SESSION_VALUE.fullmatch(value) is not None


def _unescaped(found: re.Match[str]) -> str:
    octet = int(found[1], 16)
    return chr(octet) if octet in _UNRESERVED else f"%{found[1].upper()}"


def _why_malformed(raw: str) -> str:
    scheme = _SCHEME.match(raw)
    if scheme is None:
        return "malformed"
    if scheme[1].lower() not in PORTS:
        return "scheme"
    return "malformed" if raw[scheme.end() :].strip("/\\\t\n\r ") else "no_host"
