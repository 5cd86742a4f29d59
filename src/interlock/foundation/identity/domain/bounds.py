"""What a key may ask for at most: its models and its best class; and what holds where two such bounds meet.

Knows no key and no caller.
"""

from dataclasses import dataclass
from typing import Final

ALL_MODELS: Final = "*"
# From the least to the best.
CLASSES: Final = ("batch", "standard", "interactive")


@dataclass(frozen=True, slots=True)
class KeyBounds:
    """The models that may be asked for, `*` for all of them, and the best class, None where there is no bound."""

    models: tuple[str, ...] = (ALL_MODELS,)
    class_max: str | None = None

    def allows(self, model: str) -> bool:
        """Tell whether a model may be asked for, as the edge judges it: by its whole name."""
        return ALL_MODELS in self.models or model in self.models

    def within(self, other: "KeyBounds") -> "KeyBounds":
        """Return what both allow: a model that either lacks is out, and the lesser class holds."""
        wide, narrow = (self, other) if ALL_MODELS in self.models else (other, self)
        models = tuple(each for each in narrow.models if wide.allows(each))
        named = [each.class_max for each in (self, other) if each.class_max is not None]
        return KeyBounds(models, min(named, key=CLASSES.index, default=None))
