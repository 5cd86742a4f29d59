"""Canonical JSON: sorted keys, no spaces, UTF-8, decimals as strings; equal meaning gives equal bytes and digests.

Does not validate what it renders.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical(value: Any) -> bytes:
    """Return the bytes that digests and signatures are made over."""
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """Return `sha256:` and the hex digest of the canonical bytes."""
    return digest_of(canonical(value))


def digest_of(content: bytes) -> str:
    """Return `sha256:` and the hex digest of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        # 5 and 5.0 are one figure; any other decimal keeps its shortest form, which no parser can round.
        return int(value) if value.is_integer() else repr(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence | frozenset | set):
        return [_plain(each) for each in (sorted(value) if isinstance(value, frozenset | set) else value)]
    raise TypeError(type(value).__name__)
