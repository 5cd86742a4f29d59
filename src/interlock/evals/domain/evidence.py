"""Evidence bundles: results as lines that each name the one before, sealed by a signature over the end.

Pure: signing and keys come in. `verify_bundle` needs nothing but the bytes and, where given, a public key.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interlock.evals.domain.canonical import canonical
from interlock.evals.domain.results import Result, numbers_of

FIRST: Final = hashlib.sha256(b"interlock-evidence-v1").hexdigest()
DOMAIN: Final = b"interlock-evals-seal-v1\x00"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key in use: its id, its public half, and what signs with its private half (Ed25519, RFC 8032)."""

    key_id: str
    public_key: bytes
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """What a verification came to: the line that is wrong and how, or the number of lines."""

    ok: bool
    lines: int = 0
    line: int = 0
    code: str = ""
    numbers: dict[str, Any] | None = None

    def public(self) -> dict[str, Any]:
        """Return it as JSON."""
        if self.ok:
            return {"ok": True, "lines": self.lines, "verdict_numbers": self.numbers}
        return {"ok": False, "line": self.line, "code": self.code}


def bundle(header: dict[str, Any], results: Sequence[Result], signer: Signer) -> bytes:
    """Return the bundle: a header, a line a sample in their order, a seal."""
    lines: list[bytes] = []
    prev = FIRST
    for kind, content in (("header", header), *(("sample", each.public()) for each in results)):
        line = canonical({"type": kind, "prev": prev, **content})
        lines.append(line)
        prev = hashlib.sha256(line).hexdigest()
    sealed = {
        "type": "seal", "prev": prev, "lines": len(lines), "numbers": numbers_of(results), "key_id": signer.key_id,
        "public_key": base64.b64encode(signer.public_key).decode(),
    }  # fmt: skip
    signature = base64.b64encode(signer.sign(DOMAIN + canonical(sealed))).decode()
    lines.append(canonical({**sealed, "signature": signature}))
    return b"\n".join(lines) + b"\n"


def verify_bundle(content: bytes, public_key: bytes | None = None) -> Found:
    """Re-read bytes, chain, signature and completeness, then compute the numbers again from the samples.

    Without a key of the verifier's own the one in the seal is used: that proves that nothing changed since the seal,
    not who sealed.
    """
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    parsed = [_object(line) for line in lines]
    broken = _first_break(lines, parsed)
    if broken:
        return Found(ok=False, line=broken, code="chain_broken")
    last = len(lines)
    kinds = [(each or {}).get("type") for each in parsed]
    seal, header = parsed[-1] or {}, parsed[0] or {}
    if last < 2 or kinds[-1] != "seal":
        return Found(ok=False, line=last, code="incomplete")
    if not _is_signed(seal, public_key):
        return Found(ok=False, line=last, code="signature_invalid")
    if kinds[0] != "header" or set(kinds[1:-1]) - {"sample"} or seal.get("lines") != last - 1:
        return Found(ok=False, line=last, code="incomplete")
    return _recomputed(header, [each or {} for each in parsed[1:-1]], seal, last)


def _recomputed(header: dict[str, Any], lines: list[dict[str, Any]], seal: dict[str, Any], last: int) -> Found:
    try:
        samples = [Result.read(each) for each in lines]
        numbers = numbers_of(samples)
    except (KeyError, TypeError, ValueError):
        return Found(ok=False, line=last, code="numbers_differ")
    is_whole = len({(each.key, each.arm, each.epoch) for each in samples}) == len(samples) == header.get("expected")
    if not is_whole:
        return Found(ok=False, line=last, code="incomplete")
    if canonical(numbers) != canonical(seal.get("numbers")):
        return Found(ok=False, line=last, code="numbers_differ")
    return Found(ok=True, lines=last, numbers=numbers)


def _first_break(lines: Sequence[bytes], parsed: Sequence[dict[str, Any] | None]) -> int:
    """Return the number of the first line whose bytes changed, 0 where none did.

    Of two lines that do not fit, it is the one that does not fit its other neighbour either.
    """
    prev = FIRST
    for at, (line, content) in enumerate(zip(lines, parsed, strict=True)):
        if content is None or canonical(content) != line:
            return at + 1
        if content.get("prev") != prev:
            is_sound = at > 0 and _fits_the_next(lines, parsed, at)
            return at if is_sound else at + 1
        prev = hashlib.sha256(line).hexdigest()
    return 0 if lines else 1


def _fits_the_next(lines: Sequence[bytes], parsed: Sequence[dict[str, Any] | None], at: int) -> bool:
    if at + 1 == len(lines):
        return _is_signed(parsed[at] or {}, None)
    return (parsed[at + 1] or {}).get("prev") == hashlib.sha256(lines[at]).hexdigest()


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_signed(seal: dict[str, Any], public_key: bytes | None) -> bool:
    body = {name: value for name, value in seal.items() if name != "signature"}
    try:
        key = base64.b64decode(str(seal.get("public_key")), validate=True) if public_key is None else public_key
        signature = base64.b64decode(str(seal.get("signature")), validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, DOMAIN + canonical(body))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
