"""Metrics of one process, and the merge of all processes into one OpenMetrics text.

Serves nothing: processes hand `snapshot()` to the supervisor, control answers with the merge.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample, Timestamp

_PREFIX: Final = "interlock_"
# Seconds, from a decision in memory to a long stream.
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Merge(StrEnum):
    """How one series of several processes becomes one number."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LAST = "last"


class _Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float
    exemplar: tuple[dict[str, str], float, float | None] | None = None


class _Family(msgspec.Struct, array_like=True):
    name: str
    kind: str
    help: str
    merge: Merge
    samples: list[_Sample]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_Family]).decode


class Metrics:
    """The registry of one process. Packages declare what they count, once, with its help and labels."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry(auto_describe=True)
        self._merges: dict[str, Merge] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """Declare a counter; `name` ends in `_total`."""
        return Counter(self._named(name, Merge.SUM), help_text, labels, registry=self.registry)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = (), merge: Merge | str = Merge.SUM) -> Gauge:
        """Declare a gauge; `merge` says what several processes make together."""
        return Gauge(self._named(name, Merge(merge)), help_text, labels, registry=self.registry)

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        """Declare a histogram; observations may carry an exemplar `{"trace_id": ..}`."""
        return Histogram(
            self._named(name, Merge.SUM), help_text, labels, registry=self.registry, buckets=tuple(buckets)
        )

    def build_info(self, version: str) -> None:
        """Declare `interlock_build_info`."""
        Info(self._named("build", Merge.LAST), "Version of the platform.", registry=self.registry).info(
            {"version": version}
        )

    def collector(self, collect: Collector, merges: dict[str, Merge]) -> None:
        """Register families that are made when they are asked for, such as those of `statistics()`."""
        self._merges.update(merges)
        self.registry.register(collect)

    def snapshot(self) -> bytes:
        """Return the state of all series, for `merge`."""
        families = [
            _Family(
                metric.name,
                metric.type,
                metric.documentation,
                self._merges.get(metric.name, Merge.SUM),
                [_sample(sample) for sample in metric.samples if not sample.name.endswith("_created")],
            )
            for metric in self.registry.collect()
        ]
        return _encode(families)

    def _named(self, name: str, merge: Merge) -> str:
        full = name if name.startswith(_PREFIX) else _PREFIX + name
        self._merges[full.removesuffix("_total")] = merge
        return full


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge(snapshots: Iterable[bytes]) -> str:
    """Return OpenMetrics text in which series of the same name and labels are one, by the rule of their metric."""
    families: dict[str, _Family] = {}
    series: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], _Sample]] = {}
    for snapshot in snapshots:
        for family in _decode(snapshot):
            known = families.setdefault(family.name, family)
            held = series.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                held[key] = _joined(held.get(key), sample, known.merge)
    registry = CollectorRegistry()
    registry.register(_Merged([_metric(families[name], series[name].values()) for name in sorted(families)]))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call] # the library's function has no types
    return text.decode()


def _joined(held: _Sample | None, sample: _Sample, rule: Merge) -> _Sample:
    if held is None or rule is Merge.LAST:
        return sample
    joined = {Merge.SUM: held.value + sample.value, Merge.MIN: min(held.value, sample.value)}
    value = joined.get(rule, max(held.value, sample.value))
    return _Sample(sample.name, sample.labels, value, sample.exemplar or held.exemplar)


def _metric(family: _Family, samples: Iterable[_Sample]) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample in samples:
        exemplar = None
        if sample.exemplar is not None:
            labels, value, at = sample.exemplar
            exemplar = Exemplar(labels, value, None if at is None else Timestamp(int(at), int(at % 1 * 1e9)))
        metric.samples.append(Sample(sample.name, sample.labels, sample.value, None, exemplar))
    return metric


def _sample(sample: Sample) -> _Sample:
    exemplar = None
    if sample.exemplar is not None:
        at = sample.exemplar.timestamp
        exemplar = (dict(sample.exemplar.labels), float(sample.exemplar.value), None if at is None else float(at))
    return _Sample(sample.name, dict(sample.labels), float(sample.value), exemplar)
