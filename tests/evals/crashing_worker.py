"""A worker in a process of its own that ends by SIGKILL at one step of a run; `test_crash.py` starts it.

It is told where the store is and at which step to die.
"""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from interlock.evals.config import EvalsConfig
from interlock.evals.service.running import RUN_LEASES
from interlock.foundation.leases import LeaseTable
from interlock.foundation.store import StoreUrls
from tests.evals.eval_world import Models, parts_of, patient
from tests.support.store import opened


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DyingModels(Models):
    """Answers, and dies at the n-th question before or after it."""

    def __init__(self, step, at):
        super().__init__(lambda text, _version, _tries: f"answer {text[1:]}.")
        self.step, self.at = step, at

    async def chat(self, credential, call):
        if self.step == "before_the_call" and len(self.asked) >= self.at:
            die()
        found = await super().chat(credential, call)
        if self.step == "after_the_call" and len(self.asked) >= self.at:
            die()
        return found


class DyingArtifacts:
    """Keeps objects, and dies before or after the bundle is written."""

    def __init__(self, artifacts, step):
        self.artifacts, self.step = artifacts, step

    async def put(self, key, content):
        if self.step == "before_the_bundle":
            die()
        await self.artifacts.put(key, content)
        if self.step == "after_the_bundle":
            die()


async def main(given):
    step = given["step"]
    urls = StoreUrls(**given["urls"])
    models = DyingModels(step, given["at"])
    async with opened(urls) as store:
        parts = parts_of(store, Path(given["folder"]), models, config=EvalsConfig(batch_rows=8))
        runner = parts["runner"]
        runner._p = replace(runner._p, artifacts=DyingArtifacts(parts["artifacts"], step))
        commit, commits = runner._commit, []

        async def committed(work, scored):
            if step == "before_the_commit" and len(commits) == 1:
                die()
            await commit(work, scored)
            commits.append(len(scored))
            if step == "after_the_commit" and len(commits) == 2:
                die()

        runner._commit = committed
        table = LeaseTable(patient(RUN_LEASES), store)
        for lease in await table.claim("dying", 50):
            if str(lease.organization_id) != given["organization_id"]:
                await table.release(lease.fence, None, 0.0)
                continue
            if step == "after_the_claim":
                die()
            await runner.work(lease)
            if step == "before_the_lease_ends":
                die()
            await table.finish(lease.fence, None)


def run(given):
    asyncio.run(main(given))
