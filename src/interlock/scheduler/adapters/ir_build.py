"""Builds the OpenVINO IR of a GGUF file in an environment of its own, which is deleted afterwards.

Installs nothing into the environment of the product, and proves nothing: parity does.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from interlock.foundation.errors import BrokenWorldError

PACKAGES: Final = (
    "optimum-intel==2.2.0",
    "nncf==3.4.0",
    "gguf==0.19.0",
    "accelerate==1.15.0",
    "openvino==2026.4.1",
    "openvino-tokenizers==2026.4.1.0",
)
# An index that carries the smaller build without accelerators names it so; the plain one does the same work.
TORCH: Final = ("torch==2.13.0+cpu", "torch==2.13.0")
# Comes along, is not used, and breaks the import of models where it was built for another torch.
UNWANTED: Final = "torchvision"
_EXPORT: Final = Path(__file__).with_name("ir_export.py")
_LINES_SHOWN: Final = 5
Say = Callable[[str], None]


def build_ir(model: Path, target: Path, say: Say) -> Path:
    """Return a folder beside `target` with the IR; who has proved it renames it. Raises `BrokenWorldError`.

    Needs about 3 GB beside `target` while it runs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        with _environment(target.parent, say) as python:
            say("exporting the weights")
            _run([str(python), "-I", str(_EXPORT), str(model), str(out)], "export")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return out


@contextmanager
def _environment(folder: Path, say: Say) -> Iterator[Path]:
    """Make a virtual environment with the packages of a build, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix=".environment-", dir=folder) as root:
        say("installing the packages of the build into an environment of their own")
        _run([sys.executable, "-m", "venv", root], "venv")
        python = Path(root, "bin", "python")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        _install(pip, Path(root))
        _run([*pip, "uninstall", "--quiet", "--yes", UNWANTED], "pip uninstall")
        yield python


def _install(pip: Sequence[str], root: Path) -> None:
    refusals = []
    for torch in TORCH:
        command = [*pip, "install", "--quiet", "--no-cache-dir", "--only-binary", ":all:", torch, *PACKAGES]
        try:
            _run(command, "pip install", temporary=root)
        except BrokenWorldError as error:
            refusals.append(error)
        else:
            return
    raise refusals[-1]


def _run(command: Sequence[str], what: str, temporary: Path | None = None) -> None:
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if temporary is not None:
        quiet["TMPDIR"] = str(temporary)
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own file
        command, capture_output=True, text=True, check=False, env={**os.environ, **quiet}
    )
    if done.returncode:
        told = " | ".join((done.stderr or done.stdout).strip().splitlines()[-_LINES_SHOWN:])
        raise BrokenWorldError("build_failed", f"{what} ended with {done.returncode}: {told}", "see what it told")
