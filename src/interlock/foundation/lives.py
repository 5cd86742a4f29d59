"""Whether a process that left its mark somewhere has ended, as the kernel of this machine says it.

Ends nothing and guesses nothing: what was marked on another machine, before this one's start or in another container's
view of process numbers counts as living, and so does a process that stands still.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NUMBERS: Final = Path("/proc/self/ns/pid")


def mark() -> str:
    """Return what tells the living process that calls this from all others; empty where no kernel says enough."""
    here = _here()
    return f"{here}.{os.getpid()}" if here else ""


def is_over(marked: str) -> bool:
    """Whether the process of a mark has ended; a number that somebody else has by now proves nothing."""
    here, _, number = marked.rpartition(".")
    if not here or here != _here() or not (number.isascii() and number.isdigit()) or int(number) < 1:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _here() -> str:
    """Name this start of this machine and this view of its process numbers."""
    try:
        told = f"{_BOOT.read_text().strip()} {_NUMBERS.stat().st_ino}"
    except OSError:
        return ""
    return hashlib.sha256(told.encode()).hexdigest()[:12]
