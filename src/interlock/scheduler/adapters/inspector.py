"""Finds out what answers at an engine's URL, and reads its state in the words of the platform.

Changes nothing on the engine and sends it no prompt; the canary of `remote.py` does.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from interlock.foundation.wire import Client, Timeouts, UpstreamError
from interlock.scheduler.adapters.metrics_names import Sample, dialect_of_page, gauges_of, read_page
from interlock.scheduler.adapters.remote import endpoint
from interlock.scheduler.domain.engines import Dialect, EngineGauges, EngineReport, Readiness

_PAGE_BYTES_MAX: Final = 8_388_608
_OWNERS: Final = {
    "vllm": Dialect.VLLM,
    "sglang": Dialect.SGLANG,
    "llamacpp": Dialect.LLAMACPP,
    "interlock": Dialect.EMBEDDED,
}
_HEALTH: Final = {Dialect.EMBEDDED: "/healthz", Dialect.OPENAI: None}
Document = Mapping[str, Any]


class EngineInspector:
    """Asks engines over HTTP. `token` is the internal one and goes to our own unix sockets only, `api_key` to URLs."""

    def __init__(
        self, client: Client, *, timeout_s: float, token: str | None = None, api_key: str | None = None
    ) -> None:
        self._client = client
        self._timeouts = Timeouts(timeout_s, timeout_s, timeout_s, timeout_s)
        self._token = token
        self._api_key = api_key

    async def inspect(self, url: str, dialect: Dialect | None = None) -> EngineReport:
        """Return what stands at `url`; the dialect is found out where none is given."""
        async with asyncio.TaskGroup() as group:
            listing = group.create_task(self._document(endpoint(url, "/models")))
            paging = group.create_task(self._page(url))
        models, page = listing.result(), paging.result()
        if dialect is None:
            dialect = await self._recognised(url, models, page)
        readiness = await self._readiness(url, dialect, has_models=models is not None)
        report = EngineReport(url, dialect, readiness, *_listed(models), gauges=gauges_of(dialect, page))
        return await self._completed(report)

    async def scrape(self, url: str, dialect: Dialect) -> EngineGauges | None:
        """Return the gauges of one scrape; None where the engine gives no page, or none that tells what runs."""
        page = await self._page(url)
        gauges = (
            await self._completed(EngineReport(url, dialect, Readiness.READY, gauges=gauges_of(dialect, page)))
        ).gauges
        return None if gauges.held is None else gauges

    async def _recognised(self, url: str, models: Document | None, page: Mapping[str, list[Sample]]) -> Dialect:
        owner = next((str(each.get("owned_by", "")) for each in _entries(models)), "")
        if _OWNERS.get(owner) is Dialect.EMBEDDED:
            return Dialect.EMBEDDED
        found = dialect_of_page(page) or _OWNERS.get(owner)
        if found is not None:
            return found
        info = await self._document(root(url) + "/info")
        return Dialect.TGI if info is not None and "max_total_tokens" in info else Dialect.OPENAI

    async def _readiness(self, url: str, dialect: Dialect, *, has_models: bool) -> Readiness:
        path = _HEALTH.get(dialect, "/health")
        if path is None:
            return Readiness.READY if has_models else Readiness.DOWN
        status, _ = await self._ask(root(url) + path)
        if status is None:
            return Readiness.DOWN
        return Readiness.READY if status == 200 else Readiness.STARTING

    async def _completed(self, report: EngineReport) -> EngineReport:
        """Add what a dialect tells elsewhere than on its metric page."""
        if report.dialect is Dialect.TGI:
            return _with_tgi_info(report, await self._document(root(report.url) + "/info") or {})
        if report.dialect is Dialect.LLAMACPP:
            props = await self._document(root(report.url) + "/props") or {}
            _, content = await self._ask(root(report.url) + "/slots")
            return _with_slots(report, props, _decoded(content))
        return report

    async def _page(self, url: str) -> dict[str, list[Sample]]:
        status, content = await self._ask(root(url) + "/metrics")
        return read_page(content.decode("utf-8", "replace")) if status == 200 else {}

    async def _document(self, url: str) -> Document | None:
        status, content = await self._ask(url)
        found = _decoded(content) if status == 200 else None
        return found if isinstance(found, dict) else None

    async def _ask(self, url: str) -> tuple[int | None, bytes]:
        key = self._token if url.startswith("unix:") else self._api_key
        headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        try:
            async with self._client.request("GET", url, headers, b"", self._timeouts) as answer:
                return answer.status, await answer.read(_PAGE_BYTES_MAX)
        except (UpstreamError, ValueError):
            return None, b""


def root(url: str) -> str:
    """Return where an engine has its pages beside the OpenAI ones: above `/v1`."""
    if url.startswith("unix:"):
        return f"{url}:"
    bare = url.rstrip("/")
    return bare.removesuffix("/v1") if urlsplit(bare).path.endswith("/v1") else bare


def _listed(models: Document | None) -> tuple[tuple[str, ...], int | None]:
    """Return the names of the models, and the context of the first where the list tells it."""
    entries = _entries(models)
    names = tuple(str(each["id"]) for each in entries if each.get("id"))
    return names, _positive(entries[0].get("max_model_len")) if entries else None


def _entries(models: Document | None) -> list[Document]:
    found = (models or {}).get("data")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _with_tgi_info(report: EngineReport, info: Document) -> EngineReport:
    """TGI gives the tokens its batch may grow to; what the whole KV takes is in its info."""
    kv_tokens = _positive(info.get("max_batch_total_tokens"))
    reserved = report.gauges.also.get("kv_reserved_tokens")
    usage = None if kv_tokens is None or reserved is None else round(reserved / kv_tokens, 6)
    models = report.models or ((str(info["model_id"]),) if info.get("model_id") else ())
    return replace(
        report,
        models=models,
        context_tokens=report.context_tokens or _positive(info.get("max_total_tokens")),
        gauges=replace(report.gauges, kv_tokens=kv_tokens, kv_usage=usage),
    )


def _with_slots(report: EngineReport, props: Document, slots: Any) -> EngineReport:
    """llama.cpp: `/props` gives the slots and the context of each, `/slots` what each of them holds."""
    settings = props.get("default_generation_settings")
    context = _positive(settings.get("n_ctx")) if isinstance(settings, dict) else None
    total = _positive(props.get("total_slots"))
    rows = [each for each in slots if isinstance(each, dict)] if isinstance(slots, list) else []
    gauges = report.gauges
    kv_tokens = sum(_positive(each.get("n_ctx")) or 0 for each in rows) or (context or 0) * (total or 0) or None
    if rows and kv_tokens:
        gauges = replace(gauges, kv_usage=round(sum(map(_used, rows)) / kv_tokens, 6))
    return replace(
        report,
        context_tokens=context or report.context_tokens,
        slots=total or len(rows) or None,
        gauges=replace(gauges, kv_tokens=kv_tokens),
    )


def _used(slot: Document) -> int:
    """Return the tokens of a busy slot: its prompt and what it generated. An idle one keeps only a cache."""
    if not slot.get("is_processing"):
        return 0
    step = slot.get("next_token")
    first = step[0] if isinstance(step, list) and step else step
    made = _positive(first.get("n_decoded")) if isinstance(first, dict) else None
    past = _positive(slot.get("n_past"))
    return past if past is not None else (_positive(slot.get("n_prompt_tokens")) or 0) + (made or 0)


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
