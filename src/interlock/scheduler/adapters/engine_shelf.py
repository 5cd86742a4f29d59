"""The embedded engines of a data directory: which there are, which one serves, and that none serves unproved.

Answers no call; it hands out loaded engines.
"""

import asyncio
import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.paths import FILE_MODE, write_private
from interlock.scheduler.adapters import openvino_engine
from interlock.scheduler.adapters.ir_build import build_ir
from interlock.scheduler.adapters.model_files import find_model
from interlock.scheduler.adapters.openvino_engine import OpenvinoEngine
from interlock.scheduler.adapters.parity_metrics import VERDICTS, note_serving
from interlock.scheduler.adapters.parity_run import refuse, run_parity, stored_references
from interlock.scheduler.adapters.xllamacpp_engine import XllamacppEngine
from interlock.scheduler.config import EngineConfig
from interlock.scheduler.domain.log_lines import Sink
from interlock.scheduler.domain.parity import ParityResult, Reference

_log = structlog.get_logger(__name__)

XLLAMACPP: Final = "xllamacpp"
OPENVINO: Final = "openvino"
AUTO: Final = "auto"
BACKENDS: Final = (XLLAMACPP, OPENVINO)
_LIBRARIES: Final = {XLLAMACPP: "xllamacpp", OPENVINO: "openvino-genai"}
# No pool can have this name.
_STEPS: Final = "_steps"
_MODEL_XML: Final = "openvino_model.xml"
_CPU: Final = Path("/proc/cpuinfo")
Loaded = XllamacppEngine | OpenvinoEngine


@dataclass(frozen=True, slots=True)
class ShelfRow:
    """One backend with the model of this directory."""

    backend: str
    model: str
    path: str | None
    state: str
    is_default: bool
    parity: Mapping[str, Any] | None


class EngineShelf:
    """Engines for one model. `models` is the folder of IRs and verdicts; loading blocks, proving runs on the loop.

    `journal` opens the decision log of an engine whose steps we own.
    """

    def __init__(
        self,
        models: Path,
        listener: Path,
        config: EngineConfig,
        *,
        clock: Clock,
        dice: Dice,
        journal: Callable[[str], Sink] | None = None,
    ) -> None:
        self._models = models
        self._listener = listener
        self._config = config
        self._dice = dice
        self._clock = clock
        self._journal = journal
        self.model = find_model(config.model_path)
        self._sha256 = hashlib.sha256(self.model.path.read_bytes()).hexdigest()

    @property
    def ir(self) -> Path:
        """Where the IR of the model is, once built."""
        return self._models / self._sha256

    def rows(self) -> list[ShelfRow]:
        """Return all backends; the default is the one that `auto` takes."""
        default = self.default()
        return [self._row(each, is_default=each == default) for each in BACKENDS]

    def default(self) -> str:
        """Return what `auto` takes: openvino where it was built, proved and is installed."""
        if not openvino_engine.is_installed() or not (self.ir / _MODEL_XML).is_file():
            return XLLAMACPP
        verdict = self.verdict(OPENVINO)
        return OPENVINO if verdict is not None and verdict["passed"] else XLLAMACPP

    def verdict(self, backend: str) -> dict[str, Any] | None:
        """Return the kept verdict of a backend with this model, library and processor."""
        try:
            return dict(msgspec.json.decode(self._verdict_path(backend).read_bytes()))
        except (OSError, msgspec.DecodeError):
            return None

    def load(self, backend: str) -> Loaded:
        """Load an engine; takes seconds. Raises `BrokenWorldError`."""
        if backend == XLLAMACPP:
            return XllamacppEngine.load(self.model, listener_path=self._listener, config=self._config, dice=self._dice)
        if not (self.ir / _MODEL_XML).is_file():
            raise BrokenWorldError("model_missing", f"no IR of {self.model.name}", "interlock engine build")
        return self.load_ir(self.ir)

    def load_ir(self, folder: Path) -> OpenvinoEngine:
        """Load the IR of any folder."""
        sink = None if self._journal is None else self._journal(_STEPS)
        return OpenvinoEngine.load(folder, self.model.name, config=self._config, clock=self._clock, sink=sink)

    async def serving(self, backend: str) -> Loaded:
        """Return a loaded engine that has passed parity, now or before. Raises `BrokenWorldError`.

        Where `auto` chose an engine that fails, xllamacpp takes its place.
        """
        chosen = self.default() if backend == AUTO else backend
        note_serving(self._models, self.model.name, {each: self._verdict_path(each).name for each in BACKENDS})
        try:
            return await self._proved(chosen)
        except BrokenWorldError as error:
            if backend != AUTO or chosen == XLLAMACPP:
                raise
            _log.warning("engine.fallback", backend=chosen, to=XLLAMACPP, because=str(error))
            return await self._proved(XLLAMACPP)

    async def _proved(self, backend: str) -> Loaded:
        verdict = self.verdict(backend)
        if verdict is not None and not verdict["passed"]:
            what = f"{backend} with {self.model.name} failed parity before"
            raise BrokenWorldError("parity_failed", what, f"interlock engine parity --engine {backend} shows where")
        engine = await asyncio.to_thread(self.load, backend)
        if verdict is None:
            result = await self.prove(engine, backend, is_brief=True)
            if not result.passed:
                engine.close()
                raise refuse(result)
        return engine

    async def prove(
        self,
        engine: Loaded,
        backend: str,
        *,
        is_brief: bool = False,
        references: Mapping[str, Reference] | None = None,
        reference_name: str | None = None,
    ) -> ParityResult:
        """Compare an engine with the stored answers of its model, or those given; keep the verdict."""
        known, name = self.known_references()
        name = name if references is None else reference_name or XLLAMACPP
        result = await run_parity(engine, backend, references or known, reference_name=name, is_brief=is_brief)
        path = self._verdict_path(backend)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, msgspec.json.encode(result.view()))
        return result

    def known_references(self) -> tuple[Mapping[str, Reference] | None, str]:
        """Return the stored answers where they are this model's, else none: it is compared with itself then."""
        sha256, stored = stored_references()
        if sha256 == self._sha256 or self._config.model_path is None:
            return stored, "stored answers"
        return None, "its own first answers"

    async def build(self, out: Path | None, say: Callable[[str], None]) -> Path:
        """Build the IR, prove it, then put it where `serving` looks, or into `out`. Raises `BrokenWorldError`."""
        target = (self._models if out is None else out) / self._sha256
        if not openvino_engine.is_installed():
            what = "the backend openvino is not installed"
            raise BrokenWorldError("model_missing", what, "python -m pip install 'interlock[openvino]'")
        built = await asyncio.to_thread(build_ir, self.model.path, target, say)
        try:
            say("comparing it with xllamacpp")
            references, _ = self.known_references()
            references = references or await asyncio.to_thread(self._reference_answers)
            engine = await asyncio.to_thread(self.load_ir, built)
            try:
                result = await self.prove(engine, OPENVINO, references=references)
            finally:
                engine.close()
            if not result.passed:
                raise refuse(result)
            for each in built.iterdir():
                each.chmod(FILE_MODE)
            shutil.rmtree(target, ignore_errors=True)
            built.rename(target)
        finally:
            shutil.rmtree(built, ignore_errors=True)
        return target

    def _reference_answers(self) -> dict[str, Reference]:
        engine = XllamacppEngine.load(self.model, listener_path=self._listener, config=self._config, dice=self._dice)
        try:
            return engine.references()
        finally:
            engine.close()

    def reference_answers(self, backend: str) -> dict[str, Reference]:
        """Return the answers of a live reference. Only xllamacpp tells how close its best two tokens were."""
        if backend != XLLAMACPP:
            raise BrokenWorldError("parity_failed", f"{backend} cannot be a reference", "use --reference xllamacpp")
        return self._reference_answers()

    def _row(self, backend: str, *, is_default: bool) -> ShelfRow:
        verdict = self.verdict(backend)
        path: Path | None = self.model.path
        state = "untested" if verdict is None else "ready" if verdict["passed"] else "parity"
        if backend == OPENVINO:
            is_built = (self.ir / _MODEL_XML).is_file()
            path = self.ir if is_built else None
            if not openvino_engine.is_installed():
                state = "not_installed"
            elif not is_built:
                state = "not_built"
        return ShelfRow(backend, self.model.name, None if path is None else str(path), state, is_default, verdict)

    def _verdict_path(self, backend: str) -> Path:
        """Return where a verdict is kept: it holds for these weights, this library, this build and this processor."""
        try:
            version = importlib.metadata.version(_LIBRARIES[backend])
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        what = "\n".join((self._sha256, backend, version, _processor(), str(self._config.batch_tokens)))
        return self._models / VERDICTS / f"{backend}-{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _processor() -> str:
    """Return what decides which kernels a library picks: the flags of the processor."""
    try:
        lines = _CPU.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
