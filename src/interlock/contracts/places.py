"""Where one thing is told, by the kind of its id: the call of the API, and the page of the console that shows it.

Holds no rule: whether a caller may see the thing, the call itself decides.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Place:
    """Paths as routes are written, with one place in braces. `page` is empty where no page shows one such thing."""

    call: str
    page: str = ""


PLACES: Final = {
    "crawl": Place("/v1/crawls/{id}", "/console/crawls/{id}"),
    "doc": Place("/v1/retrieval/documents/{id}", "/console/documents/{id}"),
    "flag": Place("/admin/v1/flags/{id}"),
    "gate": Place("/v1/gates/{id}", "/console/gates/{id}"),
    "grp": Place("/admin/v1/groups/{id}", "/console/groups/{id}"),
    "inc": Place("/v1/incidents/{id}", "/console/incidents/{id}"),
    "mem": Place("/admin/v1/memberships/{id}"),
    "org": Place("/admin/v1/organizations/{id}"),
    "rol": Place("/v1/rollouts/{id}", "/console/rollouts/{id}"),
    "run": Place("/v1/evals/runs/{id}", "/console/evals/{id}"),
    "sa": Place("/admin/v1/service-accounts/{id}", "/console/members/{id}"),
    "src": Place("/v1/retrieval/sources/{id}", "/console/sources/{id}"),
    "task": Place("/v1/agents/tasks/{id}", "/console/tasks/{id}"),
    "usr": Place("/admin/v1/users/{id}", "/console/members/{id}"),
    "vdt": Place("/v1/gates/verdicts/{id}"),
}
# Events of the audit chain have a number in their organization's chain in place of an id.
AUDITED: Final = Place("/admin/v1/audit/{seq}", "/console/audit/{seq}")
