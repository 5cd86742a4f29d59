"""Templates to bytes: autoescape, strict undefined names, the headers of every page.

Knows no page's content.
"""

from functools import cache, partial
from typing import Any, Final

import jinja2

from interlock.console.assets import address
from interlock.console.places import place_of_id
from interlock.foundation.control.route import Reply
from interlock.foundation.ids import format_id

PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def milliseconds(value: float | None) -> str:
    """Render a duration for a table: `-`, `0.42 ms`, `4.2 ms`, `37 ms`, `2.10 s`."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.2f} ms" if value < 1 else f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 1_000 else f"{value / 1_000:.2f} s"


def dollars(micros: int) -> str:
    """Render millionths of a dollar: `$1.00`, and as many digits as there are where cents do not tell it."""
    return f"${micros / 1e6:,.2f}" if micros % 10_000 == 0 else f"${micros / 1e6:,.6f}".rstrip("0")


def exact(moment: str) -> str:
    """Render an RFC 3339 time for a reader: `2026-01-31 12:00:00.123 UTC`."""
    return moment.replace("T", " ").replace("Z", " UTC")


@cache
def environment() -> jinja2.Environment:
    """Return the one environment of the templates."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("interlock.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["ms"] = milliseconds
    made.filters["exact"] = exact
    made.filters["dollars"] = dollars
    made.filters["place"] = place_of_id
    for kind in ("doc", "req"):
        made.filters[kind] = partial(format_id, kind)
    made.filters["key_id"] = partial(format_id, "key")
    made.globals["static"] = address
    return made


def fragment(template: str, values: dict[str, Any]) -> str:
    """Render a template to text."""
    return environment().get_template(template).render(values)


def page(template: str, values: dict[str, Any], status: int = 200) -> Reply:
    """Render a whole page with the headers that every page carries."""
    content = fragment(template, values).encode()
    return Reply(status=status, content=content, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)


def sent_to(location: str) -> Reply:
    """Return the answer that goes on to another page: what a form ends with."""
    return Reply(303, content=b"", headers={"location": location, "cache-control": "no-store"})
