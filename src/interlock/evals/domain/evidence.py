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
Sign = Callable[[bytes], bytes]


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


def bundle(header: dict[str, Any], results: Sequence[Result], signer: tuple[str, Sign]) -> bytes:
    """Return the bundle: a header, a line a sample in their order, a seal. `signer` is key id and signature."""
    lines: list[bytes] = []
    prev = FIRST
    for kind, content in (("header", header), *(("sample", each.public()) for each in results)):
        line = canonical({"type": kind, "prev": prev, **content})
        lines.append(line)
        prev = hashlib.sha256(line).hexdigest()
    key_id, sign = signer
    sealed = {"type": "seal", "prev": prev, "lines": len(lines), "numbers": numbers_of(results), "key_id": key_id}
    signature = base64.b64encode(sign(canonical(sealed))).decode()
    lines.append(canonical({**sealed, "signature": signature}))
    return b"\n".join(lines) + b"\n"


def verify_bundle(content: bytes, public_key: bytes | None = None) -> Found:
    """Re-read bytes, chain, signature and completeness, then compute the numbers again from the samples."""
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    read = _read(lines)
    if isinstance(read, Found):
        return read
    header, samples, seal = read
    if public_key is not None and not _is_signed(seal, public_key):
        return Found(ok=False, line=len(lines), code="signature_invalid")
    if seal.get("lines") != len(lines) - 1 or header.get("expected") != len(samples):
        return Found(ok=False, line=len(lines), code="incomplete")
    numbers = json.loads(canonical(numbers_of(samples)))
    if numbers != seal.get("numbers"):
        return Found(ok=False, line=len(lines), code="numbers_differ")
    return Found(ok=True, lines=len(lines), numbers=numbers)


def _read(lines: Sequence[bytes]) -> tuple[dict[str, Any], list[Result], dict[str, Any]] | Found:
    prev, parsed = FIRST, []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError:
            return Found(ok=False, line=number, code="chain_broken")
        if not isinstance(content, dict) or content.get("prev") != prev:
            # The line before was changed, unless the very first one does not begin a chain.
            return Found(ok=False, line=max(number - 1, 1), code="chain_broken")
        prev = hashlib.sha256(line).hexdigest()
        parsed.append(content)
    kinds = [each.get("type") for each in parsed]
    if len(parsed) < 2 or kinds[0] != "header" or kinds[-1] != "seal" or set(kinds[1:-1]) - {"sample"}:
        return Found(ok=False, line=len(lines), code="incomplete")
    try:
        results = [Result.read(each) for each in parsed[1:-1]]
    except (KeyError, TypeError, ValueError):
        return Found(ok=False, line=len(lines), code="chain_broken")
    return parsed[0], results, parsed[-1]


def _is_signed(seal: dict[str, Any], public_key: bytes) -> bool:
    body = {name: value for name, value in seal.items() if name != "signature"}
    try:
        signature = base64.b64decode(str(seal.get("signature")), validate=True)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, canonical(body))
    except (InvalidSignature, ValueError):
        return False
    return True
