"""The screens of the console, in the order of the navigation.

Does not render; `/console/screens.json`, the palette and the browser tests walk this list.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. `path` may hold a place in braces; such a screen is reached from a list, not from the navigation."""

    id: str
    title: str
    path: str

    @property
    def is_listed(self) -> bool:
        """Whether the navigation shows it."""
        return "{" not in self.path


SCREENS: Final = (
    Screen("overview", "Overview", "/console"),
    Screen("requests", "Requests", "/console/requests"),
    Screen("story", "Request story", "/console/requests/{id}"),
    Screen("keys", "Keys", "/console/keys"),
)
