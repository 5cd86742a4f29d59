"""Records as an edge writes them, one for each way in which a request may end that a page tells apart."""

import random

from interlock.foundation.telemetry import Attempt, Decision, RequestRecord, Timing, Usage
from tests.support.store import IDS

CHAT = "/v1/chat/completions"
LIMITED = "requests limit of workspace default: 61 of 60 in a minute; next in 1.2 s"


def answered(
    started_us: int, ttft_ms: float = 84.0, total_ms: float = 1_240.0, alias: str | None = "default", **fields
) -> RequestRecord:
    """A streamed answer of the embedded engine."""
    used = fields.get("usage", Usage(input_tokens=59, output_tokens=128))
    if used.input_tokens is None:
        used = Usage(input_tokens=0, output_tokens=0)
    steps = [
        (0.05, "parsed", "body.chat", "ok", "412 bytes, stream true"),
        (0.21, "authenticated", "key.lookup", "ok", "service_account by key ..k3Zq"),
        (0.32, "model", f"route.{alias}", "found", f"{alias}@1/embedded"),
        (1.85, "limits", "limits.exact", "reserved", "requests 1 of 600, tokens 620 of 90000"),
        (1.94, "route", f"route.{alias}", "chosen", f"{alias}@1/embedded"),
        (2.02, "queue", "pool.default", "waiting", "class standard"),
        (9.40, "grant", "scheduler.granted", "ok", "slot 3, waited 7.4 ms"),
        (9.90, "attempt", "deployment.embedded", "sent", "attempt 1 as smollm2-135m"),
        (ttft_ms - 0.4, "head", "upstream.status_200", "ok", "stream"),
        (ttft_ms, "first_event", "upstream.first_event", "ok", ""),
        (
            total_ms - 0.5,
            "settle",
            "limits.exact",
            "settled",
            f"reserved 620 used {used.input_tokens + used.output_tokens}",
        ),
        (total_ms, "finished", f"route.{alias}", "ok_stream", "status 200"),
    ]
    known = {
        "endpoint": CHAT, "dialect": "openai", "stream": True, "outcome": "ok_stream", "status": 200,
        "rule": f"route.{alias}", "alias": alias, "route_version": 1, "deployment": "embedded", "arm": "stable",
        "attempts": [Attempt(n=1, deployment="embedded", status=200, connect_ms=0.3, ttft_ms=ttft_ms - 10,
                             total_ms=total_ms - 10, upstream_request_id="cmpl-7f3a0c")],
        "usage": used,
        "timing": Timing(auth_ms=0.21, queue_ms=7.4, connect_ms=0.3, ttft_ms=ttft_ms, total_ms=total_ms,
                         gateway_ms=3.1),
        "decisions": _decisions(started_us, steps), "method": "POST", "target": CHAT,
    }  # fmt: skip
    return RequestRecord(id=IDS.new(), started_us=started_us, **(known | fields))


def limited(started_us: int, **fields) -> RequestRecord:
    """A refusal by a limit."""
    steps = [
        (0.04, "parsed", "body.chat", "ok", "286 bytes, stream false"),
        (0.16, "authenticated", "key.lookup", "ok", "service_account by key ..k3Zq"),
        (0.24, "model", "route.default", "found", "default@1/embedded"),
        (1.61, "limits", "limits.requests", "refused", LIMITED),
        (1.70, "finished", "limits.requests", "limited_requests", "status 429"),
    ]
    known = {
        "endpoint": CHAT, "dialect": "openai", "outcome": "limited_requests", "status": 429,
        "error_code": "requests_limit", "rule": "limits.requests", "alias": "default", "route_version": 1,
        "timing": Timing(auth_ms=0.16, total_ms=1.7, gateway_ms=1.7), "decisions": _decisions(started_us, steps),
        "method": "POST", "target": CHAT,
    }  # fmt: skip
    return RequestRecord(id=IDS.new(), started_us=started_us, **(known | fields))


def failed(started_us: int, **fields) -> RequestRecord:
    """A model server that broke."""
    steps = [
        (0.04, "parsed", "body.chat", "ok", "512 bytes, stream true"),
        (0.18, "authenticated", "key.lookup", "ok", "service_account by key ..k3Zq"),
        (2.40, "attempt", "deployment.fleet-a", "sent", "attempt 1 as qwen3-8b"),
        (31.2, "attempt", "upstream.status_500", "refused", "HTTP 500 from the model server"),
        (31.4, "finished", "upstream.status_500", "upstream_error", "status 502"),
    ]
    known = {
        "endpoint": CHAT, "dialect": "openai", "stream": True, "outcome": "upstream_error", "status": 502,
        "error_code": "upstream_error", "rule": "upstream.status_500", "alias": "support-fast", "route_version": 4,
        "deployment": "fleet-a",
        "attempts": [Attempt(n=1, deployment="fleet-a", status=500, error="internal error", connect_ms=0.9,
                             total_ms=28.8)],
        "timing": Timing(auth_ms=0.18, connect_ms=0.9, total_ms=31.4, gateway_ms=1.4),
        "decisions": _decisions(started_us, steps), "method": "POST", "target": CHAT,
    }  # fmt: skip
    return RequestRecord(id=IDS.new(), started_us=started_us, **(known | fields))


def gone(started_us: int, **fields) -> RequestRecord:
    """A client that closed its connection."""
    return answered(started_us, 90.0, 412.0, outcome="client_gone", status=499, rule="client.closed", **fields)


def listed(started_us: int, **fields) -> RequestRecord:
    """A short call that calls no model."""
    known = {
        "endpoint": "/v1/models", "stream": False, "outcome": "ok", "alias": None, "route_version": None,
        "deployment": None, "attempts": [], "usage": Usage(), "rule": "control.ok", "method": "GET",
        "target": "/v1/models", "timing": Timing(auth_ms=0.1, total_ms=0.8, gateway_ms=0.8),
    }  # fmt: skip
    return answered(started_us, 0.5, 0.8, **(known | fields))


def an_hour(now_us: int, count: int = 600, seed: int = 7) -> list[RequestRecord]:
    """An hour of a shop: answers of many lengths, some refusals, one bad spell of a model server."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        age_s = chance.random() * 3_560 + 4
        at = now_us - round(age_s * 1e6)
        drawn = chance.random()
        is_bad_spell = 1_500 < age_s < 1_860
        if drawn < (0.35 if is_bad_spell else 0.012):
            made.append(failed(at))
        elif drawn < 0.09:
            made.append(limited(at))
        elif drawn < 0.115:
            made.append(gone(at))
        elif drawn < 0.2:
            made.append(listed(at))
        else:
            ttft = chance.lognormvariate(4.3, 0.45)
            total = ttft + chance.lognormvariate(6.4, 0.6)
            usage = Usage(input_tokens=chance.randrange(20, 900), output_tokens=chance.randrange(8, 420))
            alias = chance.choice(["default", "default", "default", "support-fast"])
            made.append(answered(at, ttft, total, usage=usage, alias=alias))
    return made


def _decisions(started_us, steps):
    return [
        Decision(started_us + round(ms * 1_000), step, rule, verdict, text) for ms, step, rule, verdict, text in steps
    ]
