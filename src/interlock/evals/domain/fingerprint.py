"""Fingerprints of incidents: the same thing reported twice is one incident.

SHA-256 over taxonomy, detector, route and a MinHash band of the text (Broder 1997), so that other numbers, ids and
a few other words make no difference.
"""

import hashlib
import re
from typing import Final

_ID: Final = re.compile(r"\b[a-z]{2,8}_[0-9a-z]{20,}\b|\b[0-9a-f]{8,}\b")
_NUMBER: Final = re.compile(r"\d+")
_WORD: Final = re.compile(r"[\w#]+")
SHINGLE_WORDS: Final = 3
PERMUTATIONS: Final = 64
BAND_ROWS: Final = 4


def normalized(text: str) -> list[str]:
    """Return the words of a text: lower case, ids and numbers masked."""
    # One mask for both: a number of eight digits may be an id or not.
    masked = _NUMBER.sub("#", _ID.sub("#", text.lower()))
    return _WORD.findall(masked)


def minhash(words: list[str]) -> tuple[int, ...]:
    """Return the smallest hash of the 3-word shingles under each of 64 permutations."""
    count = max(len(words) - SHINGLE_WORDS + 1, 1)
    shingles = {" ".join(words[at : at + SHINGLE_WORDS]) for at in range(count)}
    digests = [hashlib.blake2b(each.encode(), digest_size=8).digest() for each in shingles]
    return tuple(
        min(int.from_bytes(hashlib.blake2b(each, digest_size=8, salt=number.to_bytes(8, "big")).digest(), "big")
            for each in digests)
        for number in range(PERMUTATIONS)
    )  # fmt: skip


def fingerprint(text: str, *, taxonomy: str | None, detector: str | None, route: str | None) -> str:
    """Return the fingerprint of a report: 64 hex digits."""
    band = minhash(normalized(text))[:BAND_ROWS]
    parts = (taxonomy or "", detector or "", route or "", *(str(each) for each in band))
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
