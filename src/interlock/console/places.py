"""Where in the console an id leads, by its prefix alone.

Looks nothing up: a page that the reader may not see answers as for an id that never was.
"""

from typing import Final

PLACES: Final = {
    "crawl": "/console/crawls/{}",
    "gate": "/console/gates/{}",
    "inc": "/console/incidents/{}",
    "req": "/console/requests/{}",
    "rol": "/console/rollouts/{}",
    "run": "/console/evals/{}",
    "task": "/console/tasks/{}",
}


def place_of_id(text: str) -> str | None:
    """Return the path of the page that shows what an id names; None where no page does."""
    kind, mark, body = text.partition("_")
    is_plain = bool(mark) and body.isascii() and body.isalnum()
    return PLACES[kind].format(text) if is_plain and kind in PLACES else None
