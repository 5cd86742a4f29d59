"""Finds the compiled forms of the hottest code; each has a form in Python that says the same, and is used without it.

Compiles nothing: the installation does, where there is a C compiler and the headers of Python (ADR 0027).
"""

import importlib
import os
from typing import Any, Final

# Set to anything, it leaves the compiled forms aside: for comparisons and for tests of the forms in Python.
PURE: Final = "INTERLOCK_PURE"


def load(module: str) -> Any | None:
    """Return a compiled module by its whole name, or None where it was not built or is not wanted."""
    if os.environ.get(PURE):
        return None
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
