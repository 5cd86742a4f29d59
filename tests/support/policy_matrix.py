"""Writes `tests/policy/matrix.yaml`: every route with the roles that may call it, asked of the policy itself.

`python -m tests.support.policy_matrix` after a change that is meant; the diff of the file is what a reviewer reads.
"""

import dataclasses
from pathlib import Path
from uuid import UUID

from interlock.agents.routes import TaskHandlers
from interlock.agents.routes import routes as task_routes
from interlock.console import Console
from interlock.console import routes as console_routes
from interlock.console.audit import AuditPages, audit_pages
from interlock.console.crawls import CrawlPages, crawl_pages
from interlock.console.evals import EvalPages, eval_pages
from interlock.console.flags import FlagPages, flag_pages
from interlock.console.gateway import GatewayPages, gateway_pages
from interlock.console.gateway_forms import GatewayForms, gateway_forms
from interlock.console.platform import PlatformPages, platform_pages
from interlock.console.playground import Playground, PlaygroundParts, playground_pages
from interlock.console.pool_capacity import CapacityPages, capacity_pages
from interlock.console.pools import PoolPages, pool_pages
from interlock.console.retrieval import RetrievalPages, retrieval_pages
from interlock.console.rollouts import RolloutPages, rollout_pages
from interlock.console.sources import SourcePages, source_pages
from interlock.console.tasks import TaskPages, task_pages
from interlock.crawler import CrawlHandlers, HostHandlers, host_routes
from interlock.crawler import routes as crawl_routes
from interlock.evals.routes.gates import GateHandlers, gate_routes, incident_routes
from interlock.evals.routes.rollouts import rollout_routes
from interlock.evals.routes.runs import RunHandlers, run_routes
from interlock.foundation.audit.routes import routes as audit_routes
from interlock.foundation.clock import SystemClock
from interlock.foundation.control.route import Level
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import ALL_SCOPES, Denied, authorize
from interlock.foundation.identity import routes as identity_routes
from interlock.foundation.identity.domain.policy import roles_of
from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId
from interlock.foundation.scope import AllWorkspaces, Membership, Principal, PrincipalKind, Role
from interlock.foundation.secrets.routes import routes as secret_routes
from interlock.gateway import routes as gateway_routes
from interlock.gateway import usage_routes
from interlock.retrieval import RetrievalConfig
from interlock.retrieval.routes.answers import answer_routes
from interlock.retrieval.routes.documents import document_routes
from interlock.retrieval.routes.explain import explain_routes
from interlock.retrieval.routes.search import search_routes
from interlock.retrieval.routes.sources import source_routes
from interlock.scheduler.routes.admin import PoolHandlers, pool_routes
from interlock.scheduler.routes.rollout import RolloutHandlers
from interlock.scheduler.routes.rollout import rollout_routes as rollout_routes_of_pools

FILE = Path(__file__).parents[1] / "policy" / "matrix.yaml"
HOME = WorkspaceId(UUID(int=2))
HEAD = """# Written by `python -m tests.support.policy_matrix`; every line is a decision, so read the diff.
# `everywhere`: roles in the whole organization that may call, `*` after those that see all its workspaces.
# `workspace`: roles in one workspace that may call, and see that one. `operator`: an owner of `system`.
"""


def registry():
    """Return every route that control serves. Handlers are never called here, so they need no services."""
    values = {each.name: None for each in dataclasses.fields(Console) if each.default is dataclasses.MISSING}
    known = {each.name for each in dataclasses.fields(Console) if each.default_factory is not dataclasses.MISSING}
    console = Console(**{name: value for name, value in values.items() if name not in known} | {"clock": SystemClock()})
    return [
        *identity_routes(None, None),
        *flag_routes(None, None),
        *audit_routes(None, None, None),
        *audit_pages(AuditPages(None, None, None, None, None, None)),
        *flag_pages(FlagPages(None, None, None, None)),
        *platform_pages(PlatformPages(None, None, None, None, None)),
        *secret_routes(None),
        *usage_routes(None),
        *gateway_routes(None, None, None, None, None),
        *pool_routes(PoolHandlers(None, None, None, None, None)),
        *rollout_routes_of_pools(RolloutHandlers(None, None, None)),
        *pool_pages(PoolPages(None, None, None, None, None, None)),
        *capacity_pages(CapacityPages(None, None, None, None)),
        *gateway_pages(GatewayPages(None, None, None, None, None, None, None, None)),
        *gateway_forms(GatewayForms(None, None)),
        *console_routes(console),
        *playground_pages(Playground(PlaygroundParts(None, None, None, None, None, None, None))),
        *crawl_routes(CrawlHandlers(None, None, None, None, None)),
        *host_routes(HostHandlers(None, None)),
        *crawl_pages(CrawlPages(None, None, None, None)),
        *rollout_routes(None, None, None),
        *rollout_pages(RolloutPages(None, None)),
        *eval_pages(EvalPages(None, None, None, None, None, None)),
        *run_routes(RunHandlers(None, None, None, None, None)),
        *gate_routes(GateHandlers(None, None, None)),
        *incident_routes(GateHandlers(None, None, None)),
        *source_routes(None, None, None, RetrievalConfig()),
        *document_routes(None, None, None, RetrievalConfig()),
        *search_routes(None, None),
        *answer_routes(None, None),
        *explain_routes(None, None),
        *retrieval_pages(RetrievalPages(None, None, None, None), {}),
        *source_pages(SourcePages(None, None, None, None), {}),
        *task_routes(TaskHandlers(None, None, None, None, None, None, None)),
        *task_pages(TaskPages(None, None, None)),
    ]


def caller(role, where=None, *, is_operator=False):
    """Return a person with one role and a session: all scopes that the role holds."""
    return Principal(
        PrincipalId(UUID(int=1)),
        PrincipalKind.USER,
        OrganizationId(UUID(int=3)),
        HOME,
        (Membership(role, where),),
        scopes=ALL_SCOPES,
        is_platform_operator=is_operator,
    )


def verdict(principal, route):
    """Return `all`, `own` or None: what of the organization a route shows a caller."""
    found = authorize(principal, route.action, route.level)
    if isinstance(found, Denied):
        return None
    return "all" if isinstance(found.workspace_id, AllWorkspaces) else "own"


def row(route):
    """Return the lines of one route."""
    name = f'"{route.method} {route.path}":'
    if route.level is Level.PUBLIC:
        return f"{name} {{level: public}}"
    everywhere = [
        f"{role}*" if seen == "all" else str(role)
        for role in Role
        if (seen := verdict(caller(role), route)) is not None
    ]
    inside = [str(role) for role in Role if verdict(caller(role, HOME), route) is not None]
    operator = "yes" if verdict(caller(Role.OWNER, is_operator=True), route) else "no"
    quoted = [f"'{each}'" if each.endswith("*") else each for each in everywhere]
    return (
        f"{name}\n  level: {route.level}\n  action: {route.action}\n  everywhere: [{', '.join(quoted)}]\n"
        f"  workspace: [{', '.join(inside)}]\n  operator: {operator}"
    )


def text():
    """Return the whole file."""
    scopes = [f"  {scope}: [{', '.join(sorted(roles_of(scope)))}]" for scope in sorted(ALL_SCOPES)]
    routes = sorted(registry(), key=lambda each: (each.path, each.method))
    return "\n".join([HEAD + "scopes:", *scopes, "", "routes:", *(_indented(row(each)) for each in routes), ""])


def _indented(lines):
    return "\n".join(f"  {line}" for line in lines.splitlines())


if __name__ == "__main__":
    FILE.write_text(text())
