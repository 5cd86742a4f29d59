"""The same tests once more as an ordinary user who owns many processes already, where we are root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.store import short_directory

ROOT = Path(__file__).parents[2]
USER = 61_234
# What differs for a user: uids, the state folder, who may kill and read whom.
FILES = ("test_sandbox.py", "test_attacks.py", "test_trees.py", "test_files.py")


def interpreter():
    """Our Python where that user may run it, else the system's of the same version."""
    for each in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        tried = subprocess.run(
            ["/bin/sh", "-c", '"$1" -c "import sys"', "sh", each],
            user=USER, group=USER, extra_groups=[], cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        if tried.returncode == 0:
            return each
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are a user's already")
@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_everything_holds_for_a_user_with_64_processes_of_their_own():
    program = interpreter()
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    if program is None or unshare is None or setpriv is None:
        pytest.skip("no Python that another user may run, or no way to become one")
    home = short_directory("interlock-user-")
    for name in ("checkout", "packages", "tmp"):
        (home / name).mkdir()
    os.chown(home / "tmp", USER, USER)
    packages = next(Path(each) for each in sys.path if each.endswith("site-packages"))
    # Seen at another place, as a checkout may lie below a home that is closed to others.
    script = (
        f'mount --bind "{ROOT}" "{home}/checkout" && mount --bind "{packages}" "{home}/packages"'
        f' && cd "{home}/checkout" && exec "{setpriv}" --reuid {USER} --regid {USER} --clear-groups "$@"'
    )
    crowd = [subprocess.Popen(["/bin/sleep", "3600"], user=USER, group=USER, extra_groups=[]) for _ in range(64)]
    files = [f"tests/agents/{name}" for name in FILES]
    try:
        done = subprocess.run(
            [unshare, "-m", "/bin/sh", "-c", script, "sh", program, "-m", "pytest", "-n", "0", "-q", "-x", *files],
            env={
                "PATH": "/usr/bin:/bin", "HOME": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": f"{home}/checkout/src:{home}/checkout:{home}/packages", "LANG": "C.UTF-8",
                "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "tmp" / "hypothesis"),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        for each in crowd:
            each.kill()
            each.wait()
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
