"""Finds the compiled forms of the hottest code; each has a form in Python that says the same, and is used without it.

Compiles nothing: the installation does, where there is a C compiler and the headers of Python (ADR 0027).
"""

import importlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

# Set to anything, it leaves the compiled forms aside: for comparisons and for tests of the forms in Python.
PURE: Final = "INTERLOCK_PURE"
# What the installation compiles; the same names stand in pyproject.toml.
KERNELS: Final = (
    "interlock.foundation._native_ids",
    "interlock.foundation.wire._native_server",
    "interlock.foundation.wire._native_upstream",
    "interlock.foundation.telemetry._native_story",
    "interlock.foundation.telemetry._native_ship",
    "interlock.gateway.domain._native_body",
    "interlock.gateway.domain._native_rules",
    "interlock.gateway.domain._native_scan",
    "interlock.gateway.service._native_errand",
)


def load(module: str) -> Any | None:
    """Return a compiled module by its whole name, or None where it was not built or is not wanted."""
    if os.environ.get(PURE):
        return None
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def is_whole() -> bool:
    """Tell whether every kernel is in use here: some go on with what another one made."""
    return all(load(each) is not None for each in KERNELS)


def left_aside(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kernels that a process in this environment does without."""
    return KERNELS if environ.get(PURE) else tuple(each for each in KERNELS if find_spec(each) is None)
