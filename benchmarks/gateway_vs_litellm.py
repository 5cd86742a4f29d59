"""gateway_vs_litellm: CPU of a request and of a stream of 30 events through the edge, against LiteLLM's proxy before
the same upstream, in the same run. LiteLLM lives in an environment of its own; where it cannot be had, nothing is
measured.

Goals: <= 1/100 of it a request, <= 1/20 a stream. Run: `make bench B=gateway_vs_litellm`; ROUNDS, REQUESTS and STREAMS
set how much is asked of LiteLLM (5, 320, 96); the edge is asked ten times as often, as its requests are short.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, cpu_us, free_port, front, scripted
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Timeouts

LITELLM = "1.108.7"
HOME = Path(__file__).parents[1] / ".cache" / "bench" / f"litellm-{LITELLM}"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
REQUESTS = int(os.environ.get("REQUESTS", "320"))
STREAMS = int(os.environ.get("STREAMS", "96"))
MORE = 10
CONNECTIONS = 16
EVENTS, GAP_MS = 30, 5
START_S = 180.0
KEY = "sk-bench"
GOALS = {"request": 1 / 100, "stream": 1 / 20}
CONFIG = """
model_list:
  - model_name: default
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""
WORDS = [{"role": "user", "content": "word " * 460}]
# A first word of an answer that comes whole, and of one that streams, whatever blanks a proxy writes.
WHOLE, WORD = b"word word", b"w29 "


def body(*, stream: bool) -> bytes:
    return json.dumps({"model": "default", "stream": stream, "messages": WORDS, "max_tokens": 100}).encode()


async def load(port: int, key: str, count: int, *, stream: bool) -> int:
    """Ask over some connections at once; return how many came whole."""
    client = Client(ClientLimits(), SystemClock())
    headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
    url, asked, whole = f"http://127.0.0.1:{port}/v1/chat/completions", body(stream=stream), 0
    patient = Timeouts(connect_s=30, first_byte_s=120, idle_s=120, total_s=240)

    async def worker() -> None:
        nonlocal whole
        for _ in range(count // CONNECTIONS):
            async with client.request("POST", url, headers, asked, patient) as answer:
                content = await answer.read(1 << 20)
            if answer.status != 200 or (WORD if stream else WHOLE) not in content:
                raise SystemExit(f"not the answer that was asked for: {answer.status} {content[:300]!r}")
            whole += 1

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    await client.close()
    return whole


def tree(pid: int) -> list[int]:
    """Return a process with all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def cost_us(port: int, pid: int, key: str, count: int, *, stream: bool) -> float:
    pids = tree(pid)
    before = sum(map(cpu_us, pids))
    whole = uvloop.run(load(port, key, count, stream=stream))
    return (sum(map(cpu_us, pids)) - before) / whole


def install() -> bool:
    """Make the peer's environment; return whether it is there."""
    if (HOME / "bin" / "litellm").exists():
        return True
    subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
    wanted = [HOME / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    return subprocess.run([*wanted, f"litellm[proxy]=={LITELLM}"], check=False).returncode == 0


@contextmanager
def litellm(upstream: int) -> Iterator[tuple[int, int]]:
    """Yield port and pid of a proxy that serves."""
    with tempfile.TemporaryDirectory(prefix="interlock-litellm-") as folder:
        port = free_port()
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(upstream=upstream, key=KEY))
        argv = [HOME / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        # Its table of prices comes with it; otherwise it fetches one at its start.
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, env=env, cwd=folder)
            try:
                _await(port, process, Path(folder) / "log")
                yield port, process.pid
            finally:
                process.terminate()
                process.wait(timeout=60)


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if uvloop.run(load(port, KEY, CONNECTIONS, stream=False)):
                return
        except (Exception, SystemExit):  # noqa: BLE001 - it answers in many ways until it is ready
            time.sleep(0.5)
    raise SystemExit(f"LiteLLM did not start: {log.read_text()[-2_000:]}")


def measure() -> int:
    with scripted(EVENTS, GAP_MS) as (upstream, _), litellm(upstream) as (peer_port, peer), front(upstream) as made:
        key = made.key("bench")["key"]
        time.sleep(1.5)
        plans = {"litellm": (peer_port, peer, KEY, 1), "edge": (made.port, made.edges[0], key, MORE)}
        rounds: dict[tuple[str, str], list[float]] = {}
        for at in range(ROUNDS + 1):
            for kind, count in (("request", REQUESTS), ("stream", STREAMS)):
                for name, (port, pid, secret, times) in plans.items():
                    cost = cost_us(port, pid, secret, count * times, stream=kind == "stream")
                    # The first round only warms both.
                    if at:
                        rounds.setdefault((kind, name), []).append(cost)
    met = True
    for kind, goal in GOALS.items():
        medians = {name: statistics.median(rounds[kind, name]) for name in plans}
        for name, value in medians.items():
            low, high = min(rounds[kind, name]), max(rounds[kind, name])
            print(f"  {name:<8}{value:9.1f} us a {kind} ({low:.1f} .. {high:.1f})")
        ratio = medians["edge"] / medians["litellm"]
        met = record(f"gateway_vs_litellm {kind}", ratio, "of litellm", "lower", goal) and met
        print(f"gateway_vs_litellm: 1/{1 / ratio:.0f} of LiteLLM {LITELLM} a {kind} (goal <= 1/{1 / goal:.0f})")
    return 0 if met else 1


def main() -> int:
    if not install():
        print(f"gateway_vs_litellm: skipped, litellm {LITELLM} cannot be installed here")
        return 0
    return measure()


if __name__ == "__main__":
    sys.exit(main())
