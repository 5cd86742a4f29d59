"""The company itself, and the proof that what was done to it is on record."""

import json
from typing import Any

from examples.shop.client import Platform
from examples.shop.staff import GROUPS, ORGANIZATION, PEOPLE, WORKSPACES
from examples.shop.steps.kit import Shop, Shown, require


def set_up_the_company(shop: Shop) -> Shown:
    """Organization, workspaces, people, nested groups and keys; a replay gives the same ids."""
    organization = _ensure(shop, "organizations", {"name": ORGANIZATION, "tier": "demo"})
    shop.organization_id = organization["id"]
    within = {"organization_id": shop.organization_id}
    for name in WORKSPACES:
        shop.workspaces[name] = _ensure(shop, "workspaces", {"name": name, **within})["id"]
    for person in PEOPLE:
        user = _ensure(shop, "users", {"email": person.email, "name": person.name, **within}, by="email")
        workspace = shop.workspaces[person.workspace] if person.workspace else None
        member = {"principal": user["id"], "role": person.role, "workspace_id": workspace, **within}
        _ensure(shop, "memberships", member, by="id")
    groups = {name: _ensure(shop, "groups", {"name": name, **within})["id"] for name in GROUPS}
    for name, members in GROUPS.items():
        for member in members:
            kind, _, who = member.partition(":")
            target = f"group:{groups[who]}" if kind == "group" else member
            added = shop.owner.call("PUT", f"/admin/v1/groups/{groups[name]}/members/{target}")
            require(added.status == 200, f"{member} joins {name}", added)
    for name, workspace in shop.workspaces.items():
        body = {"workspace_id": workspace, "name": f"tour {shop.run}", "scopes": ["inference", "requests:read"]}
        made = shop.owner.call("POST", "/admin/v1/keys", body, idempotency_key=f"tour-key-{name}-{shop.run}")
        require(made.status == 201, "a key is made", made)
        again = shop.owner.call("POST", "/admin/v1/keys", body, idempotency_key=f"tour-key-{name}-{shop.run}")
        require(again.status == 201 and again.body["id"] == made.body["id"], "a replay gives the same key", again)
        shop.keys[name] = made.body
    shop.engineer = _platform_engineer(shop)
    people, count = len(PEOPLE), len(GROUPS)
    return Shown(f"3 workspaces, {people} people, {count} groups, 4 keys, replay equal", shop.organization_id)


def _platform_engineer(shop: Shop) -> Platform:
    """Give the company's own platform engineer a key: limits, switches and the console are hers, not the operator's."""
    within = {"organization_id": shop.organization_id}
    account = {"name": f"platform engineer {shop.run}", "workspace_id": shop.workspaces["engineering"], **within}
    made = shop.owner.call("POST", "/admin/v1/service-accounts", account)
    require(made.status == 201, "a service account is made", made)
    member = {"principal": f"sa:{made.body['id']}", "role": "admin", **within}
    require(shop.owner.call("POST", "/admin/v1/memberships", member).status == 201, "it is an admin of the company")
    scopes = [f"{system}:read" for system in ("admin", "requests", "retrieval", "crawls", "agents", "evals")]
    scopes += [f"{system}:write" for system in ("admin", "kill", "agents", "evals", "gates", "rollouts", "incidents")]
    scopes += ["inference", "evals:run", "retrieval:admin", "retrieval:explain", "crawls:admin", "console"]
    body = {"workspace_id": shop.workspaces["engineering"], "scopes": scopes, "service_account": made.body["id"]}
    key = shop.owner.call("POST", "/admin/v1/keys", body | {"name": "platform engineer", **within})
    require(key.status == 201, "it has a key", key)
    return Platform(shop.url, key.body["key"])


def _ensure(shop: Shop, kind: str, body: dict[str, Any], by: str = "name") -> dict[str, Any]:
    """Create an object, or find the one that an earlier tour on the same store made."""
    made = shop.owner.call("POST", f"/admin/v1/{kind}", body, idempotency_key=f"tour-{kind}-{json.dumps(body)}"[:255])
    if made.status == 409 and made.error.get("code") == "name_taken":
        organization = body.get("organization_id")
        suffix = f"&organization_id={organization}" if organization else ""
        listed = shop.owner.call("GET", f"/admin/v1/{kind}?limit=200{suffix}")
        found = [each for each in listed.body["data"] if each.get(by) == body.get(by)]
        require(found, f"an earlier {kind} is listed", listed)
        return dict(found[0])
    require(made.status == 201, f"{kind} answers 201", made)
    return dict(made.body)


def verify_the_audit_chain(shop: Shop) -> Shown:
    """Every change of the tour stands in an audit chain that verifies."""
    verified = shop.owner.call("POST", "/admin/v1/audit/verify", {})
    require(verified.status == 200 and verified.body["ok"] is True, "the chain verifies", verified)
    require(verified.body["events"] > len(PEOPLE), "the tour's changes are in it", verified)
    return Shown(
        f"{verified.body['events']} events of {verified.body['organizations']} organizations", verified.request_id
    )
