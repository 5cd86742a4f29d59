"""`interlock engine serve` as an operator starts it: a real, proved model, or one line that says why not."""

import json
import subprocess
import sys
from itertools import islice

import pytest

from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import Dialect, EngineInspector, find_model

pytestmark = pytest.mark.xdist_group("engine")


def command(*args):
    return [sys.executable, "-m", "interlock", "engine", *map(str, args)]


def test_a_file_that_was_cut_is_named(tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(find_model().path.read_bytes()[:100_000])
    args = command("serve", "--model", path, "--port", 0, "--data", tmp_path / "data")
    done = subprocess.run(args, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert f"model_invalid: {path} Failed" in done.stderr


async def test_it_serves_what_has_passed_parity_to_who_has_the_token(tmp_path, clock):
    data = tmp_path / "data"
    args = command("serve", "--backend", "xllamacpp", "--port", 0, "--data", data)
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = next(islice(process.stdout, 1)).removeprefix("ready ").strip()
            token = next(data.rglob("internal.token")).read_text().strip()
            client = Client(ClientLimits(), clock)
            report = await EngineInspector(client, timeout_s=120.0, api_key=token).inspect(url)
            stranger = await EngineInspector(client, timeout_s=120.0).inspect(url)
            await client.close()
        finally:
            process.terminate()
        assert process.wait(240) == 0
    assert (report.dialect, report.models) == (Dialect.EMBEDDED, ("smollm2-135m-instruct",))
    assert stranger.models == ()
    (verdict,) = (data / "models" / "parity").glob("*.json")
    assert json.loads(verdict.read_bytes())["passed"]
    assert verdict.stat().st_mode & 0o077 == 0
