"""Rows of pools, engines, weights, checkpoints and decisions to types and back.

Opens no transactions; services and loops do.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import ServiceClass
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.store import Queries, Transaction
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import ClassObjective
from interlock.scheduler.domain.usage import UsageMinute
from interlock.scheduler.domain.versions import Candidate, PoolSettings

SQL = Queries("interlock.scheduler")
OWNER = SYSTEM_ORGANIZATION_ID
Objectives = dict[ServiceClass, ClassObjective]


def objectives_text(objectives: Mapping[ServiceClass, ClassObjective]) -> str:
    """Return objectives as they are stored."""
    return msgspec.json.encode(objectives).decode()


def objectives_of(text: str) -> Objectives:
    """Return stored objectives."""
    return msgspec.json.decode(text, type=Objectives)


async def read_pools(tx: Transaction) -> tuple[list[Any], list[Any], dict[str, float]]:
    """Return the rows of all pools and engines, and the weights by target."""
    weights = {str(row["target"]): row["weight"] for row in await tx.fetch(SQL.all_weights)}
    return list(await tx.fetch(SQL.all_pools)), list(await tx.fetch(SQL.all_engines)), weights


def settings_of(row: Any) -> PoolSettings:
    """Return the settings of a stored version or candidate."""
    return PoolSettings(row["policy"], row["share_level"], objectives_of(row["objectives"]))


async def read_candidates(tx: Transaction) -> dict[str, Candidate]:
    """Return what is tried now, by pool."""
    return {
        row["pool"]: Candidate(row["number"], settings_of(row), row["share_bp"] if row["stage"] == "canary" else None)
        for row in await tx.fetch(SQL.open_candidates)
    }


async def read_checkpoints(tx: Transaction) -> dict[str, dict[str, Any]]:
    """Return what the last leader kept of each pool."""
    return {row["pool"]: msgspec.json.decode(row["kept"]) for row in await tx.fetch(SQL.all_checkpoints)}


async def keep_checkpoints(
    tx: Transaction, kept: Mapping[str, Mapping[str, Any]], fences: Mapping[str, int], at_us: int
) -> None:
    """Write what the leader of each pool knows, where its fence still holds."""
    led = [pool for pool in kept if pool in fences]
    texts = [msgspec.json.encode(kept[pool]).decode() for pool in led]
    await tx.execute(SQL.keep_checkpoints, OWNER, led, [fences[pool] for pool in led], texts, at_us)


async def write_decisions(tx: Transaction, records: Iterable[DecisionRecord], fences: Mapping[str, int]) -> None:
    """Write what requests came to, where the fence of their pool still holds."""
    rows = [(*_decision_row(each), OWNER, fences[each.request.pool]) for each in records if each.request.pool in fences]
    await tx.executemany(SQL.add_decision, rows)


async def add_usage(tx: Transaction, minutes: Iterable[UsageMinute], fences: Mapping[str, int]) -> None:
    """Add to the sums of minutes, where the fence of their pool still holds."""
    rows = [(*_usage_row(each), OWNER, fences[each.pool]) for each in minutes if each.pool in fences]
    await tx.executemany(SQL.add_usage, rows)


def _usage_row(minute: UsageMinute) -> Sequence[Any]:
    return (
        minute.organization_id, minute.workspace_id, minute.key_id, minute.pool, minute.service_class, minute.minute_us,
        minute.requests, minute.successful, msgspec.json.encode(minute.refused).decode(), minute.tokens, minute.charged,
        minute.wasted, minute.cost_usd, minute.idle_usd,
    )  # fmt: skip


def _decision_row(record: DecisionRecord) -> Sequence[Any]:
    request, standing = record.request, record.standing
    key_id: UUID | None = request.key_id
    return (
        request.organization_id, request.workspace_id, request.request_id, record.at_us, key_id, request.pool,
        record.engine_id, request.service_class.value, record.outcome, record.code, record.promise,
        record.queue_wait_ms, record.predicted_ttft_ms, record.ttft_ms, record.predicted_tpot_ms, record.tpot_ms,
        record.predicted_output_tokens, record.output_tokens, record.total_ms,
        None if standing is None else standing.debt_tokens,
        None if standing is None else standing.demand_tps,
        None if standing is None else standing.share_tps,
        record.input_tokens, record.cached_tokens, record.charged_tokens, record.wasted_tokens, record.cost_usd,
        record.is_in_slo, msgspec.json.encode(record.steps).decode(),
    )  # fmt: skip
