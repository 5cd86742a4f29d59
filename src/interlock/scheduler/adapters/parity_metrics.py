"""The kept verdicts of parity as Prometheus reads them: of the model that the engine of this directory serves.

Proves nothing. A verdict outlives the engine that failed it and ended, so it is read where it is kept.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from interlock.foundation.paths import write_private
from interlock.foundation.telemetry import Merge, Metrics

VERDICTS: Final = "parity"
_NAME: Final = "interlock_scheduler_parity"
_SERVING: Final = "serving"
_Kept = TypeVar("_Kept")


class _Serving(msgspec.Struct):
    model: str
    files: dict[str, str]


class _Verdict(msgspec.Struct):
    passed: bool


def note_serving(models: Path, model: str, files: Mapping[str, str]) -> None:
    """Keep which model is to be served, and under which name the verdict of each backend with it is kept."""
    folder = models / VERDICTS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / _SERVING, msgspec.json.encode(_Serving(model, dict(files))))


class ParityMetrics(Collector):
    """Reads the verdicts in the folder of the models whenever the metrics are read."""

    def __init__(self, metrics: Metrics, models: Path) -> None:
        self._folder = models / VERDICTS
        metrics.collector(self, {_NAME: Merge.MIN})

    def collect(self) -> Iterator[Metric]:
        """Yield 1 for each backend that passed and 0 for each that failed; one that nobody tried is absent."""
        family = GaugeMetricFamily(_NAME, "1 where a backend passed parity, 0 where not.", labels=("engine", "backend"))
        serving = _read(self._folder / _SERVING, _Serving)
        if serving is not None:
            for backend, name in serving.files.items():
                verdict = _read(self._folder / name, _Verdict)
                if verdict is not None:
                    family.add_metric((serving.model, backend), float(verdict.passed))
        yield family


def _read(path: Path, kind: type[_Kept]) -> _Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None
