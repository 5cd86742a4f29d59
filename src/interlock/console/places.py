"""Where in the console an id leads, by its prefix alone, and a rule, by its first word.

Looks nothing up: a page that the reader may not see answers as for an id that never was.
"""

import re
from typing import Final

from interlock.contracts import places as contracts

_WORD: Final = re.compile("[._]")
PLACES: Final = {
    "req": "/console/requests/{}",
    **{kind: place.page.replace("{id}", "{}") for kind, place in contracts.PLACES.items() if place.page},
    "ws": "/console/workspaces/{}",
}
# The screens on which rules are kept, by the first word of their names.
RULES: Final = {
    "key": "/console/keys",
    "kill": "/console/kills",
    "limit": "/console/limits",
    "limits": "/console/limits",
    "pool": "/console/scheduler",
    "route": "/console/routes",
}


def place_of_id(text: str) -> str | None:
    """Return the path of the page that shows what an id names; None where no page does."""
    kind, mark, body = text.partition("_")
    is_plain = bool(mark) and body.isascii() and body.isalnum()
    return PLACES[kind].format(text) if is_plain and kind in PLACES else None


def place_of_rule(rule: str) -> str | None:
    """Return the path of the screen on which the rule that decided is kept; None where no page shows it."""
    return RULES.get(_WORD.split(rule, maxsplit=1)[0])
