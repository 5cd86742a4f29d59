"""What `interlock tasks submit --repo` sends: a bundle of HEAD of a git checkout, a bundle file, or plain files.

Talks to no platform and changes nothing in the checkout.
"""

import base64
import subprocess
from pathlib import Path
from typing import Any

import click

_SKIPPED = frozenset({".git", "__pycache__", ".venv", "node_modules", ".pytest_cache"})


def repo_of(path: Path | None) -> dict[str, Any]:
    """Return the `repo` of a task."""
    if path is None:
        return {"kind": "empty"}
    if path.is_file():
        return {"kind": "bundle", "data_b64": base64.b64encode(path.read_bytes()).decode()}
    if _is_checkout(path):
        return {"kind": "bundle", "data_b64": base64.b64encode(_git(path, "bundle", "create", "-", "HEAD")).decode()}
    return {"kind": "files", "files": files_of(path)}


def files_of(folder: Path) -> dict[str, str]:
    """Return the texts of a folder by path; a file that is no UTF-8 is refused by name."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if _SKIPPED & set(inside.parts) or path.is_symlink() or not path.is_file():
            continue
        try:
            found[inside.as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise click.ClickException(f"{inside} is no text; make the folder a git checkout to send it") from None
    return found


def apply_patch(folder: Path, patch: str) -> list[str]:
    """Apply a difference to a folder, whole or not at all; return the paths. Raises `click.ClickException`."""
    if not patch.strip():
        raise click.ClickException("the task changed nothing")
    for check in (["--check"], []):
        done = subprocess.run(  # noqa: S603 - the caller's own git
            ["git", "apply", *check, "-"],  # noqa: S607 - see above
            cwd=folder,
            input=patch.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            complaint = done.stderr.decode("utf-8", "replace").strip()
            raise click.ClickException(f"the diff does not apply, nothing was changed: {complaint}")
    return [line[len("+++ b/") :] for line in patch.splitlines() if line.startswith("+++ b/")]


def _is_checkout(path: Path) -> bool:
    if not (path / ".git").exists():
        return False
    done = subprocess.run(  # noqa: S603 - the caller's own git
        ["git", "-C", str(path), "rev-parse", "--verify", "-q", "HEAD"],  # noqa: S607 - see above
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _git(path: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
