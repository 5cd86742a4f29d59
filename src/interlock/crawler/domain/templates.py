"""When a shape of URL is closed: after too many pages that bring too little that is new.

Does not make the shape; `traps.template_of` does.
"""

from typing import Final

from interlock.crawler.domain.traps import NOVELTY_WINDOW, is_exhausted

PAGES_MAX: Final = 5_000


def closes(pages: int, judged: int, recent: int) -> str | None:
    """Return the rule that closes a template after `pages` admitted and `judged` extracted; `recent` has a bit each."""
    if pages > PAGES_MAX:
        return "trap_template_budget"
    novel = (recent & ((1 << NOVELTY_WINDOW) - 1)).bit_count()
    return "trap_low_novelty" if judged >= NOVELTY_WINDOW and is_exhausted(pages, novel) else None
