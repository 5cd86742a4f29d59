"""The metric pages of the engines: their text, and which of their names mean the same.

Asks nobody; `inspector.py` fetches the pages. A name is accepted with and without `_total`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.scheduler.domain.engines import Dialect, EngineGauges

_LINE: Final = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
# One request runs on every rank of a group: ranks repeat a figure, other labels part it.
_REPEATING: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
_LINES_MAX: Final = 20_000
Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one dialect, the current one first. `also` are counters, `means` histograms read as their mean."""

    prefix: str
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv_usage: tuple[str, ...] = ()
    prefix_hits: tuple[str, ...] = ()
    prefix_queries: tuple[str, ...] = ()
    prefix_share: tuple[str, ...] = ()
    kv_tokens: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_VLLM: Final = Names(
    prefix="vllm:",
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    prefix_hits=("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits"),
    prefix_queries=("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries"),
    also={"preemptions": ("vllm:num_preemptions",)},
    means={
        "ttft_mean_s": ("vllm:time_to_first_token_seconds",),
        "inter_token_mean_s": (
            "vllm:inter_token_latency_seconds",
            "vllm:request_time_per_output_token_seconds",
            "vllm:time_per_output_token_seconds",
        ),
    },
)
NAMES: Final[Mapping[Dialect, Names]] = {
    Dialect.VLLM: _VLLM,
    Dialect.EMBEDDED: _VLLM,
    Dialect.SGLANG: Names(
        prefix="sglang:",
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        kv_usage=("sglang:token_usage",),
        prefix_share=("sglang:cache_hit_rate",),
        kv_tokens=("sglang:max_total_num_tokens",),
        also={"aborted": ("sglang:num_aborted_requests",), "preemptions": ("sglang:num_retracted_requests",)},
        means={
            "ttft_mean_s": ("sglang:time_to_first_token_seconds",),
            "inter_token_mean_s": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
        },
    ),
    Dialect.TGI: Names(
        prefix="tgi_",
        running=("tgi_batch_current_size",),
        waiting=("tgi_queue_size",),
        also={"kv_reserved_tokens": ("tgi_batch_current_max_tokens",)},
        means={
            "queue_mean_s": ("tgi_request_queue_duration",),
            "inter_token_mean_s": ("tgi_request_mean_time_per_token_duration",),
        },
    ),
    Dialect.LLAMACPP: Names(
        prefix="llamacpp:",
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        kv_usage=("llamacpp:kv_cache_usage_ratio",),
        prefix_hits=("llamacpp:prompt_tokens_cached",),
        prefix_queries=("llamacpp:prompt_tokens",),
        also={"decode_tps": ("llamacpp:predicted_tokens_seconds",)},
    ),
}


def read_page(text: str) -> dict[str, list[Sample]]:
    """Return the samples of an exposition by name without `_total`; lines that are none are passed over."""
    found: dict[str, list[Sample]] = {}
    for line in text.splitlines()[:_LINES_MAX]:
        match = _LINE.match(line)
        if match is None:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            found.setdefault(name.removesuffix("_total"), []).append((dict(_LABEL.findall(labels or "")), number))
    return found


def dialect_of_page(page: Mapping[str, Any]) -> Dialect | None:
    """Return whose page it is by the prefix of its names; the embedded engine looks like vLLM here."""
    for dialect, names in NAMES.items():
        if dialect is not Dialect.EMBEDDED and any(name.startswith(names.prefix) for name in page):
            return dialect
    return None


def gauges_of(dialect: Dialect, page: Mapping[str, list[Sample]]) -> EngineGauges:
    """Return the normalised figures of a page."""
    names = NAMES.get(dialect)
    if names is None:
        return EngineGauges()
    hits, queries = _total(page, names.prefix_hits), _total(page, names.prefix_queries)
    share = _mean_of(page, names.prefix_share)
    if share is None and hits is not None and queries:
        # llama.cpp counts the prompt tokens it worked on; those found in the cache come on top.
        looked_up = queries + hits if dialect is Dialect.LLAMACPP else queries
        share = hits / looked_up
    also = {name: value for name, keys in names.also.items() if (value := _total(page, keys)) is not None}
    also |= {name: value for name, keys in names.means.items() if (value := _histogram_mean(page, keys)) is not None}
    return EngineGauges(
        running=_count(_total(page, names.running)),
        waiting=_count(_total(page, names.waiting)),
        kv_usage=_rounded(_mean_of(page, names.kv_usage)),
        kv_tokens=_count(_total(page, names.kv_tokens)) or _vllm_kv_tokens(page),
        prefix_hit_share=_rounded(share),
        also=also,
    )


def _vllm_kv_tokens(page: Mapping[str, list[Sample]]) -> int | None:
    """Return blocks times their size, which vLLM gives as labels of a constant."""
    total = 0
    for labels, _ in page.get("vllm:cache_config_info", ()):
        blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
        if blocks.isdecimal() and size.isdecimal():
            total += int(blocks) * int(size)
    return total or None


def _parts(page: Mapping[str, list[Sample]], names: Iterable[str]) -> list[float] | None:
    """Return the figure of each part of an engine under the first known name; ranks of one part count once."""
    for name in names:
        samples = page.get(name)
        if samples:
            parts: dict[tuple[tuple[str, str], ...], float] = {}
            for labels, value in samples:
                part = tuple(sorted((key, text) for key, text in labels.items() if key not in _REPEATING))
                parts[part] = max(value, parts.get(part, value))
            return list(parts.values())
    return None


def _total(page: Mapping[str, list[Sample]], names: Iterable[str]) -> float | None:
    parts = _parts(page, names)
    return None if parts is None else sum(parts)


def _mean_of(page: Mapping[str, list[Sample]], names: Iterable[str]) -> float | None:
    parts = _parts(page, names)
    return None if parts is None else sum(parts) / len(parts)


def _histogram_mean(page: Mapping[str, list[Sample]], names: Iterable[str]) -> float | None:
    for name in names:
        count, total = _total(page, (f"{name}_count",)), _total(page, (f"{name}_sum",))
        if count and total is not None:
            return total / count
    return None


def _count(value: float | None) -> int | None:
    return None if value is None else round(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
