"""The crawler's calls over HTTP: what is refused, by which code, and what an operator's words change."""

import pytest

from interlock.crawler.routes.crawls import CrawlHandlers, routes
from interlock.crawler.routes.hosts import HostHandlers, host_routes
from interlock.crawler.store.retention import forget
from interlock.foundation.audit import AuditLog
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import authorize
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from tests.crawler.world import CLOCK, DICE, IDS, world
from tests.foundation.control.conftest import Client, Keys

ALL = frozenset({"crawls:read", "crawls:write", "crawls:admin"})


@pytest.fixture
async def crawler(store, scope, tmp_path):
    async with world(store, tmp_path, pages=6) as made:
        made.scope = scope
        made.calls = calls_of(made, scope.organization_id, scope.workspace_id)
        made.operator = calls_of(made, scope.organization_id, None, is_platform_operator=True)
        yield made


def calls_of(made, organization_id, workspace_id, **more):
    """HTTP as an owner of an organization."""
    keys, audit = Keys(), AuditLog(CLOCK, Redactor())
    keys.known["il_owner"] = Principal(
        IDS.new(), PrincipalKind.USER, organization_id, workspace_id,
        memberships=(Membership(Role.OWNER, workspace_id),), scopes=ALL, **more,
    )  # fmt: skip
    kit = Kit(
        store=made.store, audit=audit, gate=Gate(keys, None, authorize), ids=IDS, clock=CLOCK, dice=DICE, key=b"k"
    )
    handlers = CrawlHandlers(made.start_crawl, made.control, made.reading, made.explain, CLOCK)
    app = build_app([*routes(handlers), *host_routes(HostHandlers(made.states, made.rules))], kit)
    return Client(app, {"authorization": "Bearer il_owner"})


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"seeds": ["ftp://shop.example/"]}, 400, "invalid_url"),
        ({"seeds": ["javascript:alert(1)"]}, 400, "invalid_url"),
        ({"seeds": ["http://u:p@shop.example/"]}, 400, "invalid_url"),
        ({"seeds": ["http:///"]}, 400, "invalid_url"),
        ({"seeds": ["http://shop.example/" + "x" * 2048]}, 400, "invalid_url"),
        ({"seeds": []}, 422, "invalid_spec"),
        ({"budgets": {"pages": -1}}, 422, "invalid_spec"),
        ({"scope": {"include": ["["]}}, 422, "invalid_spec"),
        ({"archive": "warc"}, 422, "invalid_spec"),
        ({"render": "auto"}, 422, "invalid_spec"),
        ({"recrawl": {"mode": "adaptive"}}, 422, "invalid_spec"),
        ({"near_duplicates": "link"}, 422, "invalid_spec"),
        ({"colour": "red"}, 400, "unknown_field"),
        ({"seeds": ["https://shop.example/"], "politeness": {"delay_s": 0}}, 422, "politeness_below_floor"),
    ],
)
async def test_a_bad_spec_is_refused_by_name_and_nothing_is_created(crawler, change, status, code):
    body = {"seeds": [crawler.url()], **change}
    refused = await crawler.calls("POST", "/v1/crawls", body)
    assert (refused.status, refused.code) == (status, code), refused.json
    assert (await crawler.calls("GET", "/v1/crawls")).json["data"] == []


@pytest.mark.parametrize(
    "host",
    ["a..b", "-", "*.com", "*.co.uk", "h:8080", "-a.example", "a-.example", "*.127.0.0.1", "*.*.a", "x" * 64, "*."],
)
async def test_a_rule_is_for_a_host_that_can_exist(crawler, host):
    refused = await crawler.operator("PUT", f"/admin/v1/crawl-hosts/{host}", {"reason": "complaint", "blocked": True})
    assert (refused.status, refused.code) == (422, "invalid_spec"), refused.json


async def test_a_rule_is_kept_under_the_name_that_urls_have(crawler):
    for text, name in (("Shop-1.Example.", "shop-1.example"), ("*.Shop-1.example", "*.shop-1.example")):
        kept = await crawler.operator("PUT", f"/admin/v1/crawl-hosts/{text}", {"reason": "complaint", "delay_s": 5})
        assert (kept.status, kept.json["host"]) == (200, name), kept.json
    tenant = await crawler.calls("PUT", "/admin/v1/crawl-hosts/shop-1.example", {"reason": "mine"})
    assert tenant.status == 403


async def test_a_change_is_checked_like_a_start_and_counts_versions(crawler):
    made = (await crawler.calls("POST", "/v1/crawls", {"seeds": [crawler.url()]})).json
    path = f"/v1/crawls/{made['id']}"
    changed = await crawler.calls("PATCH", path, {"budgets": {"pages": 3}, "weight": 2})
    assert changed.status == 200, changed.json
    assert changed.json["config_version"] == made["config_version"] + 1
    assert (changed.json["config"]["budgets"]["pages"], changed.json["config"]["weight"]) == (3, 2)
    for body, status, code in (
        ({"budgets": {"pages": 0}}, 422, "invalid_spec"),
        ({"recrawl": {"mode": "adaptive"}}, 422, "invalid_spec"),
        ({"seeds": ["http://other.example/"]}, 400, "unknown_field"),
    ):
        refused = await crawler.calls("PATCH", path, body)
        assert (refused.status, refused.code) == (status, code), refused.json
    assert (await crawler.calls("GET", path)).json["config_version"] == changed.json["config_version"]


async def test_dead_letters_are_tried_again_by_class_and_only_of_a_live_crawl(crawler, scope):
    made = (await crawler.calls("POST", "/v1/crawls", {"seeds": [crawler.url()], "extract": "none"})).json
    path = f"/v1/crawls/{made['id']}"
    async with crawler.store.transaction(scope) as tx:
        await tx._connection.execute(
            "UPDATE crawler_urls SET state = 'dead', reason = 'http_5xx' WHERE organization_id = $1",
            scope.organization_id,
        )
    assert (await crawler.calls("POST", f"{path}/requeue", {"state": "dead", "reason": "reset"})).json["scheduled"] == 0
    again = await crawler.calls("POST", f"{path}/requeue", {"state": "dead", "reason": "http_5xx"})
    assert (again.status, again.json["scheduled"]) == (202, 1), again.json
    assert (await crawler.calls("POST", f"{path}/requeue", {"state": "done"})).status == 400
    assert (await crawler.calls("POST", f"{path}/cancel", {})).status == 200
    late = await crawler.calls("POST", f"{path}/requeue", {"state": "dead"})
    assert (late.status, late.code) == (409, "crawl_not_running")
    other = calls_of(crawler, IDS.new(), scope.workspace_id)
    assert (await other("POST", f"{path}/requeue", {"state": "dead"})).code == "crawl_not_found"


async def test_requests_are_told_for_a_while_and_a_refusal_as_long_as_its_crawl(crawler, scope):
    crawl = IDS.new()
    async with crawler.store.ops("test") as tx:
        run = tx._connection.execute
        for days, verdict in ((40, "fetched"), (40, "refused"), (1, "fetched")):
            await run(
                "INSERT INTO crawler_decisions (organization_id, workspace_id, crawl_id, url_key, seq, at, step,"
                " verdict, rule) VALUES ($1, $2, $3, $4, 0, now() - make_interval(days => $5), 'response', $6, $6)",
                scope.organization_id, scope.workspace_id, crawl, IDS.new(), days, verdict,
            )  # fmt: skip
    await forget(crawler.store, 30)
    async with crawler.store.ops("test") as tx:
        left = await tx._connection.fetch("SELECT verdict FROM crawler_decisions WHERE crawl_id = $1", crawl)
    assert sorted(row["verdict"] for row in left) == ["fetched", "refused"]
