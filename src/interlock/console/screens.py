"""The screens of the console, in the order of the navigation.

Does not render; `/console/screens.json`, the palette and the browser tests walk this list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Final


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. `path` may hold a place in braces; such a screen is reached from its `parent` alone.

    `group` is the heading under which the navigation lists it; screens of a group stand together.
    """

    id: str
    title: str
    path: str
    group: str = ""
    parent: str = ""

    @property
    def is_listed(self) -> bool:
        """Whether the navigation shows it."""
        return "{" not in self.path


SCREENS: Final = (
    Screen("overview", "Overview", "/console"),
    Screen("requests", "Requests", "/console/requests"),
    Screen("story", "Request story", "/console/requests/{id}", parent="requests"),
    Screen("playground", "Playground", "/console/playground"),
    Screen("rollouts", "Rollouts", "/console/rollouts"),
    Screen("rollout", "Rollout", "/console/rollouts/{id}", parent="rollouts"),
    Screen("keys", "Keys", "/console/keys"),
    Screen("members", "Members", "/console/members", group="People"),
    Screen("member", "Member", "/console/members/{id}", group="People", parent="members"),
    Screen("groups", "Groups", "/console/groups", group="People"),
    Screen("group", "Group", "/console/groups/{id}", group="People", parent="groups"),
    Screen("workspaces", "Workspaces", "/console/workspaces", group="People"),
    Screen("workspace", "Workspace", "/console/workspaces/{id}", group="People", parent="workspaces"),
    Screen("routes", "Models and routes", "/console/routes", group="Gateway"),
    Screen("route", "Route", "/console/routes/{alias}", group="Gateway", parent="routes"),
    Screen("limits", "Limits", "/console/limits", group="Gateway"),
    Screen("usage", "Usage and cost", "/console/usage", group="Gateway"),
    Screen("kills", "Kill switches", "/console/kills", group="Gateway"),
    Screen("scheduler", "Pools", "/console/scheduler", group="Scheduler"),
    Screen("pool", "Pool", "/console/scheduler/{pool}", group="Scheduler", parent="scheduler"),
    Screen("pool_fairness", "Fairness", "/console/scheduler/{pool}/fairness", group="Scheduler", parent="scheduler"),
    Screen("pool_capacity", "Capacity", "/console/scheduler/{pool}/capacity", group="Scheduler", parent="scheduler"),
    Screen("grant", "Way through the pool", "/console/grants/{id}", group="Scheduler", parent="scheduler"),
    Screen("retrieval", "Search", "/console/retrieval", group="Retrieval"),
    Screen(
        "retrieval_request", "Search record", "/console/retrieval/requests/{id}", group="Retrieval", parent="retrieval"
    ),
    Screen("retrieval_why", "Why", "/console/retrieval/why", group="Retrieval"),
    Screen("sources", "Sources", "/console/sources", group="Retrieval"),
    Screen("source", "Source", "/console/sources/{id}", group="Retrieval", parent="sources"),
    Screen("document", "Document", "/console/documents/{id}", group="Retrieval", parent="sources"),
    Screen("crawls", "Crawls", "/console/crawls", group="Crawler"),
    Screen("crawl", "Crawl", "/console/crawls/{id}", group="Crawler", parent="crawls"),
    Screen("crawl_explain", "Explain a URL", "/console/crawls/{id}/explain", group="Crawler", parent="crawls"),
    Screen("crawl_hosts", "Crawled hosts", "/console/crawl-hosts", group="Crawler"),
    Screen("tasks", "Tasks", "/console/tasks", group="Agents"),
    Screen("task", "Task", "/console/tasks/{id}", group="Agents", parent="tasks"),
    Screen("eval_runs", "Eval runs", "/console/evals", group="Evals"),
    Screen("eval_run", "Eval run", "/console/evals/{id}", group="Evals", parent="eval_runs"),
    Screen("gates", "Gates", "/console/gates", group="Evals"),
    Screen("gate", "Gate", "/console/gates/{id}", group="Evals", parent="gates"),
    Screen("incidents", "Incidents", "/console/incidents", group="Evals"),
    Screen("incident", "Incident", "/console/incidents/{id}", group="Evals", parent="incidents"),
    Screen("flags", "Flags", "/console/flags", group="Platform"),
    Screen("audit", "Audit chain", "/console/audit", group="Platform"),
    Screen("audit_event", "Audit event", "/console/audit/{seq}", group="Platform", parent="audit"),
    Screen("platform", "Processes and settings", "/console/platform", group="Platform"),
)


def navigation(may_open: Callable[[str], bool]) -> list[tuple[str, list[Screen]]]:
    """Return by group, in their order, the listed screens that the reader may open."""
    listed = [screen for screen in SCREENS if screen.is_listed and may_open(screen.path)]
    return [(group, list(within)) for group, within in groupby(listed, key=lambda screen: screen.group)]


def open_screen(here: str) -> str:
    """Return the listed screen that the navigation marks while the screen `here` is shown."""
    return next((screen.parent or screen.id for screen in SCREENS if screen.id == here), here)
