"""Finds what some checks want beyond Python: chromium, node and nginx; installs them where that is allowed.

Run before the tests. Whatever stays absent marks its tests as skipped, with the reason in the last lines.
"""

import os
import shutil
import subprocess
import sys

WANTED = {"chromium": "chromium", "node": "nodejs", "npm": "npm", "nginx": "nginx-light"}
TIMEOUT_S = 600


def missing() -> dict[str, str]:
    """Return program -> package for every wanted program that is not on the path."""
    return {program: package for program, package in WANTED.items() if shutil.which(program) is None}


def why_absent(program: str) -> str:
    """Say what a reader can do about a missing program."""
    return f"{program} is not installed and could not be (needs root and apt-get); install {WANTED[program]}"


def main() -> int:
    lacking = missing()
    if not lacking or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return 0
    packages = sorted(set(lacking.values()))
    print(f"installing {', '.join(packages)} with the distribution's package tool", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            print(f"{' '.join(command)} took over {TIMEOUT_S} s; going on without", file=sys.stderr)
            return 0
        if done.returncode:
            print(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}; going on without", file=sys.stderr)
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
