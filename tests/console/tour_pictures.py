"""Draws what the tour left: `python -m tests.console.tour_pictures LINK`, with the link that `make demo` prints last.

Makes no data: every screen is shown as the shop's platform engineer sees it. `tests.console.pictures` draws the rest.
"""

import asyncio
import sys
from urllib.parse import urljoin

from playwright.async_api import async_playwright

from tests.console.pictures import IMAGES
from tests.support.browser import FLAGS, chromium_path

KEPT = {
    "light": (
        "overview",
        "retrieval_request",
        "crawl",
        "task",
        "eval_run",
        "gate",
        "incident",
        "usage",
        "pool_fairness",
        "grant",
    ),
    "dark": ("overview", "task", "gate"),
}


async def main(link: str) -> None:
    """Sign in by the link, then open each screen that has something to show."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        await page.goto(link)
        await page.get_by_role("button", name="Open the console").click()
        await page.wait_for_url("**/console")
        listed = await page.evaluate("fetch('/console/screens.json').then(answer => answer.json())")
        paths = {screen["id"]: screen["sample_path"] for screen in listed["data"]}
        for theme, kept in KEPT.items():
            await page.emulate_media(color_scheme=theme)
            for name in kept:
                assert paths[name], f"nothing to show on {name}; is this the link that was printed after the tour?"
                await page.goto(urljoin(link, paths[name]))
                await page.wait_for_timeout(300)
                await page.screenshot(path=IMAGES / f"{name.replace('_', '-')}-{theme}.png")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
