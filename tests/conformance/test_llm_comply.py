"""Somebody else's suite of the three formats, whole, against upstreams of both families.

Nothing of it is left out: models are named so that the suite asks for reasoning and thinking, too.
"""

import asyncio
import json
import os
import sys

import pytest

from interlock.gateway.domain.directory import ProviderKind
from tests.gateway.vendors import lead, vendor
from tests.gateway.worlds import world

OPENAI, ANTHROPIC = ProviderKind.OPENAI, ProviderKind.ANTHROPIC
# Through a translation thinking has no counterpart, so those models are named as ones that do not think.
ALIASES = {"gpt-5-own": OPENAI, "claude-opus-own": ANTHROPIC, "plain-openai": OPENAI, "plain-anthropic": ANTHROPIC}
RUNS = [
    ("openai-chat", "gpt-5-own", 0),
    ("openai-chat", "plain-anthropic", 1),
    ("open-responses", "gpt-5-own", 0),
    ("open-responses", "plain-anthropic", 1),
    ("anthropic", "claude-opus-own", 0),
    ("anthropic", "plain-openai", 1),
]


@pytest.fixture
async def edge(store, scope):
    async with vendor() as upstream, world(store, scope, with_engine=False) as each:
        for alias, kind in ALIASES.items():
            await lead(each, alias, kind, f"{upstream.url}/v1")
        yield each


async def run_suite(edge, form, model):
    """The results of one format, in a process of their own, as its users run it."""
    given = ["--base-url", f"{edge.url}/v1", "--model", model, "--format", form, "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from llm_comply.cli import main; main()", "run", *given,
        env=os.environ | {"OPENRESPONSES_API_KEY": edge.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(280):
        told, wrong = await process.communicate()
    assert told, wrong.decode()
    return json.loads(told)


async def test_every_format_passes_whole(edge):
    for form, model, skipped in RUNS:
        told = await run_suite(edge, form, model)
        failed = {each["id"]: each["errors"] for each in told["results"] if each["status"] == "failed"}
        assert not failed, (form, model)
        assert [each["status"] for each in told["results"]].count("skipped") == skipped, (form, model)
        assert len(told["results"]) >= 9
