"""The pages that vLLM, SGLang, TGI and llama.cpp serve beside the OpenAI wire, from the figures of the fake engine.

Holds no figures and answers no completion.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.scheduler.domain.engines import Dialect

_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_BLOCK: Final = 16


@dataclass(frozen=True, slots=True)
class FakeState:
    """What the engine holds when a page is read; token counts are totals since its start."""

    model: str
    slots: int
    context_tokens: int
    kv_tokens: int
    running: int
    waiting: int
    held_tokens: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    completed: int
    aborted: int
    held_by_slot: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    content_type: bytes
    content: bytes
    status: int = 200


def page_of(dialect: Dialect, path: str, state: FakeState) -> Page | None:
    """Return the page of a dialect at a path; None where that server has none."""
    make = _PAGES[dialect].get(path)
    return None if make is None else make(state)


def _metrics(samples: Callable[[FakeState], Sequence[tuple[str, str, str, float]]]) -> Callable[[FakeState], Page]:
    def render(state: FakeState) -> Page:
        lines = []
        for name, kind, labels, value in samples(state):
            lines.append(f"# HELP {name} Of the fake engine.")
            lines.append(f"# TYPE {name} {kind}")
            lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
        return Page(_TEXT, ("\n".join(lines) + "\n").encode())

    return render


def _vllm(state: FakeState) -> list[tuple[str, str, str, float]]:
    labels = f'engine="0",model_name="{state.model}"'
    blocks = f'block_size="{_BLOCK}",engine="0",num_gpu_blocks="{state.kv_tokens // _BLOCK}"'
    return [
        ("vllm:num_requests_running", "gauge", labels, state.running),
        ("vllm:num_requests_waiting", "gauge", labels, state.waiting),
        ("vllm:kv_cache_usage_perc", "gauge", labels, _usage(state)),
        ("vllm:cache_config_info", "gauge", blocks, 1.0),
        ("vllm:prefix_cache_queries_total", "counter", labels, state.prompt_tokens),
        ("vllm:prefix_cache_hits_total", "counter", labels, state.cached_tokens),
        ("vllm:prompt_tokens_total", "counter", labels, state.prompt_tokens),
        ("vllm:generation_tokens_total", "counter", labels, state.output_tokens),
        ("vllm:num_preemptions_total", "counter", labels, 0.0),
    ]


def _sglang(state: FakeState) -> list[tuple[str, str, str, float]]:
    labels = f'engine_type="unified",model_name="{state.model}",pp_rank="0",tp_rank="0"'
    rate = [("sglang:cache_hit_rate", "gauge", labels, state.cached_tokens / max(1, state.prompt_tokens))]
    return [
        ("sglang:num_running_reqs", "gauge", labels, state.running),
        ("sglang:num_queue_reqs", "gauge", labels, state.waiting),
        ("sglang:token_usage", "gauge", labels, _usage(state)),
        ("sglang:max_total_num_tokens", "gauge", labels, state.kv_tokens),
        *(rate if state.prompt_tokens else []),
        ("sglang:prompt_tokens_total", "counter", labels, state.prompt_tokens),
        ("sglang:generation_tokens_total", "counter", labels, state.output_tokens),
        ("sglang:num_aborted_requests_total", "counter", labels, state.aborted),
    ]


def _tgi(state: FakeState) -> list[tuple[str, str, str, float]]:
    return [
        ("tgi_batch_current_size", "gauge", "", state.running),
        ("tgi_queue_size", "gauge", "", state.waiting),
        ("tgi_batch_current_max_tokens", "gauge", "", state.held_tokens),
        ("tgi_request_count", "counter", "", state.completed + state.aborted + state.running + state.waiting),
    ]


def _llamacpp(state: FakeState) -> list[tuple[str, str, str, float]]:
    return [
        ("llamacpp:prompt_tokens_total", "counter", "", state.prompt_tokens - state.cached_tokens),
        ("llamacpp:prompt_tokens_cached_total", "counter", "", state.cached_tokens),
        ("llamacpp:tokens_predicted_total", "counter", "", state.output_tokens),
        ("llamacpp:requests_processing", "gauge", "", state.running),
        ("llamacpp:requests_deferred", "gauge", "", state.waiting),
    ]


def _models(owner: str, *, has_length: bool = False, has_meta: bool = False) -> Callable[[FakeState], Page]:
    def render(state: FakeState) -> Page:
        model: dict[str, Any] = {"id": state.model, "object": "model", "created": 0, "owned_by": owner}
        if has_length:
            model["max_model_len"] = state.context_tokens
        if has_meta:
            model["meta"] = {"n_ctx_train": state.context_tokens}
        return _json({"object": "list", "data": [model]})

    return render


def _info(state: FakeState) -> Page:
    return _json(
        {
            "model_id": state.model,
            "max_concurrent_requests": 4 * state.slots,
            "max_input_tokens": state.context_tokens - 1,
            "max_total_tokens": state.context_tokens,
            "max_batch_total_tokens": state.kv_tokens,
            "router": "text-generation-router",
        }
    )


def _props(state: FakeState) -> Page:
    settings = {"n_ctx": state.context_tokens}
    return _json({"default_generation_settings": settings, "total_slots": state.slots, "model_path": state.model})


def _slots(state: FakeState) -> Page:
    held = [*state.held_by_slot, *([0] * state.slots)][: state.slots]
    a_slot = state.kv_tokens // state.slots
    rows = [
        {"id": number, "n_ctx": a_slot, "is_processing": tokens > 0, "n_past": tokens}
        for number, tokens in enumerate(held)
    ]
    return _json(rows)


def _ok(_state: FakeState) -> Page:
    return _json({"status": "ok"})


def _json(body: Any) -> Page:
    return Page(_JSON, msgspec.json.encode(body))


def _usage(state: FakeState) -> float:
    return round(min(1.0, state.held_tokens / state.kv_tokens), 6)


_PAGES: Final[Mapping[Dialect, Mapping[str, Callable[[FakeState], Page]]]] = {
    Dialect.VLLM: {"/health": _ok, "/metrics": _metrics(_vllm), "/v1/models": _models("vllm", has_length=True)},
    Dialect.SGLANG: {"/health": _ok, "/metrics": _metrics(_sglang), "/v1/models": _models("sglang", has_length=True)},
    Dialect.TGI: {
        "/health": _ok,
        "/metrics": _metrics(_tgi),
        "/v1/models": _models("text-generation-inference"),
        "/info": _info,
    },
    Dialect.LLAMACPP: {
        "/health": _ok,
        "/metrics": _metrics(_llamacpp),
        "/v1/models": _models("llamacpp", has_meta=True),
        "/props": _props,
        "/slots": _slots,
    },
    Dialect.OPENAI: {"/health": _ok, "/healthz": _ok, "/v1/models": _models("interlock-fake")},
}
