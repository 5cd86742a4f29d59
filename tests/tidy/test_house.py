"""The repository speaks of the product alone, and installs only what it pins."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from interlock.foundation.errors import ERRORS

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PTH_ALLOWED = {"__editable__.interlock-0.1.0.pth", "distutils-precedence.pth", "_virtualenv.pth"}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def texts():
    for path in tracked():
        if path.suffix in {".woff2", ".png", ".svg", ".ico"} or ".min." in path.name:
            continue
        yield path, path.read_text(encoding="utf-8")


def test_lock_files_are_hashed_and_name_no_host():
    for path in LOCKS:
        text = path.read_text()
        assert "://" not in text, path
        if path.name == "overrides.txt":
            continue
        pins = re.findall(r"^[A-Za-z0-9_.\[\]-]+==", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins), path


def test_no_to_do_is_left_behind():
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")
    strays = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, text in texts()
        if path.suffix in {".py", ".sql", ".md", ".js", ".css", ".html"}
        for line in text.splitlines()
        if marks.search(line)
    ]
    assert strays == []


def test_every_runtime_dependency_has_its_row():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[=<>]", each)[0] for each in project["dependencies"]]
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []


def test_no_pth_files_but_our_own():
    """A `.pth` file runs code at every start of the interpreter: the way of the stolen release."""
    packages = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    found = {path.name for path in packages.glob("*.pth")}
    assert found - PTH_ALLOWED == set()
    assert not (packages / "sitecustomize.py").exists()
    assert not (packages / "usercustomize.py").exists()


def test_every_error_code_is_documented():
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert documented == set(ERRORS)


def test_the_generated_reference_is_up_to_date():
    """`make docs` writes the pages from the code; a page that differs was edited by hand or forgotten."""
    command = [sys.executable, "-m", "tests.support.reference", "--check"]
    # A process of its own: what other tests leave in memory must not change what the commands say of themselves.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
