"""Draws the pictures of the documentation: `python -m tests.console.pictures`.

An hour of a made-up shop goes through the real spool into a real store; the pages and the browser are the real ones.
"""

import asyncio
import tempfile
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from playwright.async_api import async_playwright

from interlock.foundation.identity import KeyWanted
from interlock.foundation.identity.directory import SQL
from interlock.foundation.ids import format_id
from interlock.foundation.scope import ALL_WORKSPACES
from interlock.foundation.telemetry import StoryFilters
from tests.console import samples
from tests.console.worlds import make_world
from tests.support.browser import FLAGS, chromium_path
from tests.support.store import opened, running_store, scope_of

IMAGES = Path(__file__).parents[2] / "docs" / "images"
KEYS = (
    ("checkout", ("inference",), ("default", "support-fast"), ()),
    ("support desk", ("inference", "requests:read"), ("*",), ("10.20.0.0/16",)),
    ("nightly evaluation", ("inference",), ("default",), ()),
    ("grafana", ("metrics:read",), ("*",), ()),
    ("on call", ("requests:read", "admin:read", "kill:write", "console"), ("*",), ()),
)


async def furnish(world):
    """Give the shop a workspace, keys, and an hour of requests."""
    tenant = scope_of(world.owner.organization_id)
    chief = replace(tenant, workspace_id=ALL_WORKSPACES, principal=replace(tenant.principal, is_platform_operator=True))
    async with world.store.transaction(chief) as tx:
        await world.identity.change(tx, SQL.change_workspace, world.owner.workspace_id, None, "shop")
        for name, scopes, models, cidrs in KEYS:
            owner = (world.owner.owner_id, "user")
            wanted = KeyWanted("", name, scopes, models, cidrs)
            row, _ = await world.keys.insert_for(tx, owner, world.owner.workspace_id, wanted)
            if name == "nightly evaluation":
                await world.keys.revoke(tx, row["lookup"])
    await world.ship(*samples.an_hour(world.clock.now_us(), 1_400))


@asynccontextmanager
async def serving(app):
    """Yield the origin at which the application answers."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", access_log=False))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        server.force_exit = True


async def draw(origin, key, story):
    """Open each page and keep its picture."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        for theme in ("light", "dark"):
            page = await browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=theme)
            await page.goto(f"{origin}/console/login")
            await _keep(page, f"login-{theme}", theme == "light")
            await page.get_by_label("API key").fill(key)
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url("**/console")
            await page.goto(f"{origin}/console/requests/{story}")
            await _keep(page, f"story-{theme}", is_whole=True)
            for name in ("requests", "keys"):
                await page.goto(f"{origin}/console/{name}")
                await _keep(page, f"{name}-{theme}", theme == "light")
        await browser.close()


async def _keep(page, name, is_wanted=True, is_whole=False):
    await page.wait_for_timeout(300)
    if is_wanted:
        await page.screenshot(path=IMAGES / f"{name}.png", full_page=is_whole)


async def main():
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with running_store() as (_, urls), opened(urls) as store:
            world = await make_world(store, Path(folder))
            await furnish(world)
            streamed = StoryFilters(outcome="ok_stream", alias="support-fast")
            found, _ = await world.console().lookup.search(scope_of(world.owner.organization_id), streamed, None, 1)
            async with serving(world.app()) as origin:
                await draw(origin, world.owner_key, format_id("req", found[0].id))


if __name__ == "__main__":
    asyncio.run(main())
