"""The page of the platform: the operator's alone, secrets hidden, and what it does is done in two steps and audited."""

import csv
import io

import pytest

from interlock.console.platform import PlatformPages, PlatformParts, platform_pages
from interlock.foundation.audit import AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemDice
from interlock.foundation.config import Effective
from interlock.foundation.redaction import Redactor
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretService
from interlock.foundation.supervisor import DataDirectory, PlatformState
from interlock.foundation.supervisor.doctor import Finding, Verdict
from tests.console.conftest import signed_in
from tests.console.test_pages import post, text
from tests.gateway.test_routes import make_operator
from tests.support.store import IDS, scope_of

PAGE = "/console/platform"
METRICS = """# TYPE interlock_supervisor_role_restarts counter
interlock_supervisor_role_restarts_total{role="edge-0"} 3.0
interlock_supervisor_role_up{role="edge-0"} 1.0
interlock_supervisor_role_up{role="store-0"} 1.0
interlock_supervisor_role_up{role="worker-0"} 0.0
interlock_store_up 1.0
interlock_store_connections{pool="ops"} 14.0
interlock_telemetry_spool_bytes 1048576.0
interlock_telemetry_spool_bytes_max 10485760.0
interlock_telemetry_spool_dropped_total{kind="detail"} 7.0
# EOF
"""
SETTINGS = (
    Effective("edge.window_s", 5, "env:INTERLOCK_EDGE__WINDOW_S", "How <b>long</b>.", is_secret=False),
    Effective("edge.word", "swordfish", "file:interlock.toml:3", "A secret.", is_secret=True),
    Effective("edge.other", 1, "default", "As it comes.", is_secret=False),
)


class House:
    """The page over made-up processes, and what it asked the supervisor for."""

    def __init__(self, world):
        self.asked = []
        directory = DataDirectory(world.folder / "platform")
        directory.prepare()
        directory.write_pid("edge", 0, 4_711)
        master = MasterKeyFile(world.folder / "master.key")
        master.ensure(SystemDice())
        audit = AuditLog(world.clock, Redactor())
        secrets = SecretService(SecretBox(SystemDice(), master.read_public), audit, IDS, Redactor())
        parts = PlatformParts(
            directory=directory, settings=SETTINGS, state=lambda: PlatformState(True, ("store",)), metrics=self.metrics,
            restart=self.asked.append, doctor=self.doctor, hide=Redactor().text,
        )  # fmt: skip
        pages = PlatformPages(world.console().frame, parts, secrets, audit, world.clock)
        self.app = world.app(*platform_pages(pages))

    async def metrics(self):
        return METRICS

    async def doctor(self):
        return [Finding(Verdict.FAIL, "disk", "cannot write <i>there</i>", "free space")]


@pytest.fixture
async def house(world):
    return House(world)


class Desk:
    """What makes an owner the operator needs of a desk."""

    def __init__(self, world):
        self.world = world


@pytest.fixture
async def operator(world, house, store):
    await make_operator(Desk(world), store)
    return await signed_in(world, house.app, world.owner_key)


async def test_processes_store_and_spool_are_told(operator):
    page = text(await operator("GET", PAGE))
    assert "4711" in page
    assert "degraded" in page
    assert "14 ops" in page
    assert "1.0 of 10 MiB" in page
    assert "7 detail" in page


async def test_settings_tell_where_they_come_from_and_no_secret(operator):
    page = text(await operator("GET", PAGE))
    assert "env:INTERLOCK_EDGE__WINDOW_S" in page
    assert "edge.other" not in page
    assert "How &lt;b&gt;long" in page
    everything = text(await operator("GET", f"{PAGE}?settings=all"))
    assert "edge.other" in everything
    rows = list(csv.DictReader(io.StringIO(text(await operator("GET", f"{PAGE}/settings.csv")))))
    assert [row["value"] for row in rows] == ["5", "[set]", "1"]
    assert "swordfish" not in page + everything


async def test_doctors_findings_come_when_they_are_asked_for(operator):
    assert "What doctor found" not in text(await operator("GET", PAGE))
    page = text(await post(operator, f"{PAGE}/doctor", page=PAGE))
    assert "free space" in page
    assert "cannot write &lt;i&gt;there" in page


async def test_a_process_is_restarted_in_two_steps_and_the_chain_says_so(world, operator, house):
    at = f"{PAGE}/processes/edge-0/restart"
    assert (await post(operator, at, page=PAGE)).status == 400
    assert house.asked == []
    assert (await post(operator, at, page=PAGE, is_meant="1")).status == 303
    assert house.asked == ["edge-0"]
    reader = AuditReader(world.store, CheckpointKeys([]), CheckpointFile(world.folder / "none"))
    told = await reader.events(scope_of(world.owner.organization_id), AuditFilter(action="platform.restart"), 9)
    assert [each.target_id for each in told] == ["edge-0"]
    for nobody in ("store-0", "worker-0", "edge-9", "x"):
        answer = await post(operator, f"{PAGE}/processes/{nobody}/restart", page=PAGE, is_meant="1")
        assert answer.status == 404
    assert house.asked == ["edge-0"]


async def test_the_master_key_is_rotated_in_two_steps(operator):
    at = f"{PAGE}/rotate-secrets"
    assert "never rotated" in text(await operator("GET", PAGE))
    assert (await post(operator, at, page=PAGE)).status == 400
    assert "never rotated" in text(await operator("GET", PAGE))
    assert (await post(operator, at, page=PAGE, is_meant="1")).status == 303
    assert "newest rotation of the master key is wanted" in text(await operator("GET", PAGE))


async def test_nobody_but_the_operator_sees_or_does_any_of_it(world, house):
    owner = await signed_in(world, house.app, world.owner_key)
    for path in (PAGE, f"{PAGE}/settings.csv"):
        assert (await owner("GET", path)).status == 403
    for path in ("doctor", "rotate-secrets", "processes/edge-0/restart"):
        answer = await post(owner, f"{PAGE}/{path}", page="/console/keys", is_meant="1")
        assert answer.status == 403
    assert house.asked == []
    assert f'href="{PAGE}"' not in text(await owner("GET", "/console/keys"))
