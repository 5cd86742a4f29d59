"""first_run: from a fresh clone to the first answer, empty caches, the download of wheels measured apart.

Bounds: <= 30 s with uv, <= 120 s with pip, without the download. Run: `make bench B=first_run`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.record import record

ROOT = Path(__file__).parents[1]
BOUNDS_S = {"uv": 30.0, "pip": 120.0}


def run(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=cwd, env={**os.environ, **(env or {})}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def clone(folder: Path) -> Path:
    target = folder / "interlock"
    run("git", "clone", "-q", str(ROOT), str(target), cwd=folder)
    return target


def download(source: Path, wheels: Path) -> float:
    """Fetch every wheel once, so that what follows needs no network."""
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    seconds = 0.0
    for name in ("bootstrap.txt", "app.txt"):
        seconds += run(*fetch, "-d", str(wheels), "-r", str(source / "requirements" / name), cwd=source)
    return seconds


def install(tool: str, source: Path, wheels: Path, caches: Path) -> float:
    """Make the environment with empty caches, from the wheels alone."""
    python = str(source / ".venv" / "bin" / "python")
    strict = ["--require-hashes", "--only-binary", ":all:", "--no-index", "--find-links", str(wheels)]
    env = {"PIP_CACHE_DIR": str(caches / "pip"), "UV_CACHE_DIR": str(caches / "uv")}
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    seconds = run(sys.executable, "-m", "venv", ".venv", cwd=source)
    seconds += run(*pip, *strict, "-r", "requirements/bootstrap.txt", cwd=source, env=env)
    if tool == "uv":
        pip = [str(source / ".venv" / "bin" / "uv"), "pip", "install", "-q", "--python", python]
    seconds += run(*pip, "--no-deps", *strict, "-r", "requirements/app.txt", cwd=source, env=env)
    return seconds + run(*pip, "--no-deps", "--no-build-isolation", "-e", ".", cwd=source, env=env)


def first_answer(source: Path, data: Path) -> float:
    """Start the platform and ask it one question."""
    began = time.perf_counter()
    argv = [str(source / ".venv" / "bin" / "interlock"), "up", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(argv, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise SystemExit(f"the platform did not start: {line!r}")
        body = {"model": "default", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        request = urllib.request.Request(
            line.split()[1] + "/v1/chat/completions",
            json.dumps(body).encode(),
            {
                "authorization": f"Bearer {(data / 'owner.key').read_text().strip()}",
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] > 0
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(timeout=120)
        process.stdout.close()


def main() -> int:
    is_met = True
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        wheels = folder / "wheels"
        print(f"  download {download(clone(folder), wheels):6.1f} s (apart)")
        for tool, bound_s in BOUNDS_S.items():
            place = folder / tool
            place.mkdir(mode=0o711)
            source = clone(place)
            installed_s = install(tool, source, wheels, place / "caches")
            answered_s = first_answer(source, place / "data")
            total_s = installed_s + answered_s
            is_met = record(f"first_run {tool}", total_s, "s", "lower", bound_s) and is_met
            parts = f"install {installed_s:.1f}, up and answer {answered_s:.1f}"
            print(f"first_run: {tool} {total_s:.1f} s (<= {bound_s:.0f} s): {parts}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
