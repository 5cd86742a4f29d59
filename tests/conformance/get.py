"""Tests that others wrote: fetched once through pip or apt, pinned by hash, kept in `.cache/conformance`.

A test that needs them is skipped with the reason where they cannot be had. Nothing of them is imported.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache" / "conformance"
TIMEOUT_S = 100

ARCHIVES = {
    "robotspy": ("robotspy==0.13.0", "dfd60d49647eeeb88b401ff21fd3a7c62aea5c43f6ffd9c4b883e780ef1361bb"),
    "protego": ("protego==0.7.0", "2c032d9736a1f4f0c4318f3558353ae34da5cd038f1a5e064ded7548df315e5a"),
    "w3lib": ("w3lib==2.5.0", "a7ddf714508ddc1b8563bd19ace2feb28080bbaca39326cbc964359f6754f615"),
    "html5lib": ("html5lib==1.1", "b2e5b40261e20f354d198eae92afc10d750afb487ed5e50f9c4eaf07c184146f"),
    "url": ("librust-url-dev", "408d745032921069d1d7b2f43490b67418d50c0275789cef35adad7789ba27af"),
    "publicsuffix": ("publicsuffix", "791c92c681a3cefcc9721445dc8a301a1a3cb3eef40ac2c16a4d9dd9ad5a42d7"),
}
DEBIAN = {"url", "publicsuffix"}
# Too old for the newest setuptools, which an isolated build would take.
UNISOLATED = {"html5lib"}


def folder(name: str) -> Path:
    """Return the unpacked files of one set, or skip the test with the reason."""
    found = _folder(name)
    if isinstance(found, str):
        pytest.skip(f"{ARCHIVES[name][0]} cannot be had here: {found}")
    return found


@cache
def _folder(name: str) -> Path | str:
    target = CACHE / name
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = _fetched(name, Path(scratch))
        if isinstance(made, str):
            return made
        try:
            made.rename(target)
        except OSError:  # Another process was quicker.
            assert target.is_dir()
    return target


def _fetched(name: str, scratch: Path) -> Path | str:
    wanted, sha256 = ARCHIVES[name]
    isolation = ["--no-build-isolation"] if name in UNISOLATED else []
    command = (
        ["apt-get", "download", wanted]
        if name in DEBIAN
        else [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--retries", "0",
              "--timeout", "10", "-d", str(scratch), *isolation, wanted]
    )  # fmt: skip
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "no answer in time"
    archives = [path for path in scratch.iterdir() if path.is_file()]
    if done.returncode or len(archives) != 1:
        return (done.stderr.strip().splitlines() or ["nothing came"])[-1][:200]
    if hashlib.sha256(archives[0].read_bytes()).hexdigest() != sha256:
        return f"{archives[0].name} is another version than the pinned one"
    target = scratch / "unpacked"
    target.mkdir()
    if name in DEBIAN:
        subprocess.run(["dpkg", "-x", str(archives[0]), str(target)], check=True, env={"PATH": os.environ["PATH"]})
    else:
        with tarfile.open(archives[0]) as archive:
            archive.extractall(target, filter="data")
    return target


def one(name: str, pattern: str) -> Path:
    """Return the one file of a set whose path matches."""
    return next(iter(sorted(folder(name).rglob(pattern))))


def constants(path: Path, **known: object) -> dict[str, object]:
    """Return what the assignments of a Python file come to, read without running it; others are left out."""
    found = dict(known)
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = _value(statement.value, found)
            except (ValueError, KeyError, TypeError):
                continue
    return found


def parameters(path: Path, function: str) -> list[tuple]:
    """Return the rows of the `parametrize` mark of one test function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return [tuple(row) for mark in node.decorator_list for row in ast.literal_eval(mark.args[1])]
    raise KeyError(function)


def _value(node: ast.expr, names: dict[str, object]) -> object:
    """Evaluate literals, names, sums and formatted strings of them."""
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        kind = list if isinstance(node, ast.List) else tuple
        return kind(_value(each, names) for each in node.elts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left, names) + _value(node.right, names)
    return ast.literal_eval(node)
