"""Rows of suites, runs, samples, gates, verdicts and incidents to what the API shows.

Decides nothing.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id

encode_bytes: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
Row = Mapping[str, Any]


def encode(value: Any) -> str:
    """Return the text of a jsonb parameter."""
    return encode_bytes(value).decode()


def decode(text: str | None) -> Any:
    """Return the value of a jsonb column; None where it is null."""
    return None if text is None else _decode(text)


def suite_json(row: Row) -> dict[str, Any]:
    """Return a version of a suite."""
    counts = {name: row[name] for name in ("added", "changed", "removed")}
    return {
        "name": row["name"],
        "version": row["version"],
        "kind": row["kind"],
        "description": row["description"],
        "suite_digest": row["suite_digest"],
        "cases": row["cases"],
        **counts,
        "created_at": rfc3339(row["created_us"]),
    }


def run_json(row: Row, progress: Row | None = None) -> dict[str, Any]:
    """Return a run; its figures are null until it is sealed."""
    run_id = format_id("run", row["id"])
    numbers = decode(row["numbers"]) or {}
    return {
        "id": run_id,
        "state": row["state"],
        "suite": row["suite"],
        "suite_version": row["suite_version"],
        "suite_digest": row["suite_digest"],
        "candidate": decode(row["candidate"]),
        "baseline": decode(row["baseline"]),
        "candidate_digest": row["candidate_digest"],
        "baseline_digest": row["baseline_digest"],
        "seed": row["seed"],
        "epochs": row["epochs"],
        "expected": row["expected"],
        "labels": decode(row["labels"]),
        "completeness": _completeness(row, progress),
        "arms": numbers.get("arms"),
        "paired": numbers.get("paired"),
        "power": numbers.get("power"),
        "cost_usd": numbers.get("cost_usd"),
        "evidence_digest": row["evidence_digest"],
        "reason": row["reason"],
        "events_url": f"/v1/evals/runs/{run_id}/events",
        "created_at": rfc3339(row["created_us"]),
        "ended_at": None if row["ended_us"] is None else rfc3339(row["ended_us"]),
    }


def _completeness(row: Row, progress: Row | None) -> dict[str, Any] | None:
    if progress is None:
        return (decode(row["numbers"]) or {}).get("completeness")
    scored, errored, expected = progress["scored"], progress["errored"], row["expected"]
    missing = expected - scored - errored
    return {
        "expected": expected, "scored": scored, "errored": errored, "missing": missing, "complete": scored == expected,
    }  # fmt: skip


def sample_json(row: Row) -> dict[str, Any]:
    """Return one result."""
    names = ("key", "arm", "epoch", "state", "outcome", "why", "output_sha256", "request_id", "latency_ms", "tries")
    return {name: row[name] for name in names} | {"cluster": row["cluster"], "output": decode(row["output"])}


def result_json(row: Row) -> dict[str, Any]:
    """Return one result with its case: the last message that was asked, and its slices."""
    body = decode(row["body"])
    asked = body["input"]["messages"][-1].get("content")
    return {**sample_json(row), "asked": asked, "slices": body.get("slices") or []}


def control_json(row: Row) -> dict[str, Any]:
    """Return one control of a check."""
    names = ("kind", "sabotage", "expected", "observed", "ok")
    return {"check": row["check_name"], **{name: row[name] for name in names}, "at": rfc3339(row["at_us"])}


def key_json(row: Row) -> dict[str, Any]:
    """Return a public key; the bytes are encoded by the caller's JSON as base64."""
    return {
        "key_id": row["key_id"],
        "public_key": msgspec.to_builtins(row["public_key"]),
        "not_after": rfc3339(row["not_after_us"]),
        "revoked": row["revoked_us"] is not None,
    }


def incident_json(row: Row, events: list[Row] | None = None) -> dict[str, Any]:
    """Return an incident, with its timeline where it was read."""
    names = ("state", "fingerprint", "title", "severity", "source", "detector", "taxonomy", "route", "request_id",
             "artifact_digest", "occurrences", "owner", "capture_state", "suite", "case_key")  # fmt: skip
    told = {"id": format_id("inc", row["id"]), **{name: row[name] for name in names}}
    told |= {"text": row["body"], "input": decode(row["input"]), "evidence": decode(row["evidence"])}
    told |= {"repro": decode(row["repro"]), "created_at": rfc3339(row["created_us"])}
    told["updated_at"] = rfc3339(row["updated_us"])
    if events is not None:
        told["timeline"] = [_event(each) for each in events]
    return told


def _event(row: Row) -> dict[str, Any]:
    names = ("seq", "kind", "actor", "note")
    return {name: row[name] for name in names} | {"at": rfc3339(row["at_us"]), "detail": decode(row["detail"])}
