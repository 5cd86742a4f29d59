"""JSON that is passed on as it came. A field of it is absent when it is empty or null.

Reads nothing inside.
"""

from typing import Final

import msgspec

# The library takes a union of Raw and None for None alone, so a field that may be absent has this for its default.
ABSENT: Final = msgspec.Raw(b"")


def given(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return the value, None where there is none."""
    return None if bytes(raw) in (b"", b"null") else raw
