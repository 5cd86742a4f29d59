"""Copies what some slots of one object hold into slots of another.

Knows no class; whoever makes a copier names the slots of both.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from interlock.foundation.native import load


class SlotCopierInPython:
    """From slots of `source` into slots of `target`: `names` are those of the first, each with the one of the second.

    At least two of them.
    """

    def __init__(self, source: type, target: type, names: Mapping[str, str]) -> None:
        for kind, slots in ((source, names.keys()), (target, names.values())):
            if not all(hasattr(kind, name) for name in slots):
                raise TypeError(f"{kind}: {slots} are no slots")
        self._values = attrgetter(*names)
        self._targets = tuple(names.values())

    def __call__(self, source: Any, target: Any) -> None:
        """Copy."""
        for name, value in zip(self._targets, self._values(source), strict=True):
            setattr(target, name, value)


_kernel = load("interlock.foundation.telemetry._native_story")
if TYPE_CHECKING:
    SlotCopier = SlotCopierInPython
else:
    SlotCopier = SlotCopierInPython if _kernel is None else _kernel.SlotCopier
