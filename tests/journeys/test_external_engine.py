"""An engine by URL that wants a key: the key is sealed, used, rotated under load, and written nowhere in clear."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.journeys.engines import scripted_engine
from tests.journeys.processes import files_with
from tests.support.platform import remove, start

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]

PLANTED = "sk-planted-4fTz9QmWc71LrXe2"
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
CALLS = 120


@pytest.fixture
def behind_a_key():
    with scripted_engine(token=PLANTED) as engine:
        running = start("--engine", engine.url, env={"INTERLOCK_ENGINE__API_KEY": PLANTED})
        yield running
        remove(running)


def test_rotating_the_master_key_under_load_fails_no_call_and_leaks_nothing(behind_a_key):
    platform = behind_a_key
    caller = platform.as_key(platform.key("load")["key"])
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(caller.call, "POST", "/v1/chat/completions", CHAT) for _ in range(CALLS // 2)]
        rotated = platform.cli("secrets", "rotate")
        calls += [pool.submit(caller.call, "POST", "/v1/chat/completions", CHAT) for _ in range(CALLS // 2)]
        statuses = [each.result().status for each in calls]
    assert rotated.returncode == 0, rotated.stderr
    assert set(statuses) == {200}
    assert platform.cli("audit", "verify").returncode == 0
    assert files_with(platform.directory, [PLANTED.encode()]) == []
    assert not any(PLANTED in line for line in platform.lines)
