"""What happens to one edge, drawn before it happens: who asks what and when, what model servers do, what is changed.

Runs nothing; `ways_world` does. Both forms of an edge are given the same script.
"""

import json
from dataclasses import dataclass
from uuid import UUID

from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.identity.directory import KeyRecord
from interlock.foundation.identity.domain.keys import hash_key, make_key
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.sim import SimDice
from interlock.foundation.sim.loop import EPOCH_US
from interlock.gateway.domain.betas import Beta
from interlock.gateway.domain.directory import (
    Capabilities,
    Deployment,
    Dimension,
    DirectoryRows,
    Fallback,
    Gate,
    Limit,
    LimitMode,
    LimitScope,
    Provider,
    ProviderKind,
    Route,
    RouteSpec,
    Strategy,
    Target,
    Timeouts,
    Trouble,
    Weight,
)

PEPPER = b"pepper of the simulation"
TENANT, WORKSPACE, OTHER = UUID(int=1 << 100), UUID(int=2 << 100), UUID(int=3 << 100)
KEYS = tuple(make_key("live", SimDice(each)) for each in (1, 2))
KEY_IDS = (UUID(int=1_790_000 << 80), UUID(int=1_790_001 << 80))
CONFIG = {
    "inflight_max": 6, "queue_max": 4, "queue_s_max": 0.3, "body_bytes_max": 20_000, "body_bytes_held_max": 1 << 20,
    "answer_bytes_max": 60_000, "keep_alive_s": 0.2, "retry_after_s_max": 1.0, "whole_s": 15.0, "ttft_s": 10.0,
    "idle_s": 8.0, "total_s": 30.0,
}  # fmt: skip
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
PATHS = (CHAT, CHAT, CHAT, CHAT, MESSAGES, MESSAGES, RESPONSES, "/v1/embeddings", "/v1/messages/count_tokens")
ALIASES = (
    "shop", "shop", "shop", "claude", "claude", "two", "slow", "dear", "pooled", "pooled", "mixed", "back", "nobody",
)  # fmt: skip
# What a scheduler refuses with: code, status, and when to come again.
NO_PLACE = (
    ("no_capacity", 503, 1.0), ("queue_time_exceeded", 503, 0.3), ("fair_share_exceeded", 429, 0.2),
    ("deadline_infeasible", 429, None), ("request_exceeds_engine", 413, None), ("pool_draining", 503, 2.0),
)  # fmt: skip
TROUBLES = tuple(Trouble)
# Of the heads that callers send again and again, the first ask for nothing special.
CALLERS_MAX, HEADS, SOUND = 4, 5, 2
# What each head may say of itself without asking for anything that a rule could refuse.
PLAIN = 7
# Long after the last event: all that waits has been answered, refused or given up by then.
REST_S = 90.0
CLOSE = None
ANTHROPIC = "http://192.0.2.10:8000/v1"
MODES = ("reject", "drain", "abort")
SHORT = Timeouts(connect=200, ttft=300, idle=200, total=1_500)
MORE = (
    (), (), (),
    (("x-client-request-id", "mine-1"),),
    (("x-interlock-tags", "team=search"), ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")),
    (("x-interlock-deadline-ms", "400"),),
    (("x-interlock-deadline-ms", "60000"), ("x-client-request-id", "mine-2")),
    (("x-interlock-beta", "fast"),),
    (("anthropic-beta", "late"),),
    (("interlock-version", "2026-01-01"),),
    (("x-interlock-tags", "none"),),
    (("x-interlock-degrade", "never"),),
    (("x-interlock-class", "batch"),),
    (("x-interlock-session", "s1"),),
    (("x-interlock-session", "s2"), ("traceparent", "00-" + "b" * 32 + "-" + "c" * 16 + "-00"), ("tracestate", "v=1")),
)  # fmt: skip


@dataclass
class Script:
    """`events` are moments in seconds, what happens, and with what; `plans` what is answered to each question.

    A plan is a pair: what a server of either family answers, as nobody knows before which one a fallback leads to.
    """

    start: dict
    events: list
    plans: list
    grants: list
    callers: int
    rest_s: float = REST_S


def drawn(dice: SimDice) -> Script:
    """Draw a script."""
    return _Dealer(dice).script()


class _Dealer:
    def __init__(self, dice):
        self._dice = dice
        self._plans, self._events = [], []
        self._at = 0.0
        # How often nothing about a request is unusual: the more often, the more of them go a way.
        self._usual = dice.pick(0.0, 0.5, 0.8, 0.9, 0.97)

    def script(self):
        dice = self._dice
        callers = 1 + dice.randrange(CALLERS_MAX)
        heads = [self._head(is_sound=at < SOUND) for at in range(HEADS)]
        start = {"keys": True, "rows": True, "limits": self._limits(), "betas": self._betas(rarely=6), "prices": 0}
        if dice.chance(0.4):
            start |= {"candidate": self._candidate()}
        state = dict(start)
        for _ in range(2 + dice.randrange(9)):
            head, caller = dice.pick(*heads[:SOUND] * 3, *heads), dice.randrange(callers)
            pause_s = dice.pick(0.001, 0.004, 0.02, 0.02, 0.1, 0.4)
            # Whoever comes again is who goes a way.
            for _ in range(1 + dice.randrange(24)):
                self._at += pause_s * (1 + dice.randrange(3))
                self._ask(caller if dice.chance(0.7) else dice.randrange(callers), head)
            if dice.chance(0.6):
                self._trouble(callers, state)
        if dice.chance(0.3):
            self._add("drain", dice.pick(0.0, 0.05, 2.0))
        return Script(start, self._events, self._plans, [self._grant() for _ in range(24)], callers)

    def _add(self, what, *given, after_s=0.0):
        self._events.append((self._at + after_s + len(self._events) * 1e-6, what, given))
        self._events.sort(key=lambda each: each[0])

    # Who asks.

    def _head(self, *, is_sound):
        dice = self._dice
        more = dice.pick(*MORE[:PLAIN] if is_sound else MORE)
        key = KEYS[dice.pick(0, 0, 0, 1)].text
        given = dice.pick(CHAT, CHAT, MESSAGES) if is_sound else dice.pick(*PATHS)
        named = dice.pick((("authorization", f"Bearer {key}"),), (("x-api-key", key),))
        if is_sound:
            return given, (*named, ("content-type", "application/json"), *more)
        if dice.chance(0.04):
            named = (("authorization", f"Bearer {key[:-1]}"),)
        if dice.chance(0.08):
            more = (*more, ("idempotency-key", f"once-{dice.randrange(3)}"))
        return given, (*named, ("content-type", "application/json"), *more)

    def _ask(self, caller, head):
        dice = self._dice
        path, fields = head
        number, is_usual = len(self._plans), dice.chance(self._usual)
        is_messages = path.startswith(MESSAGES)
        alias = dice.pick("claude", "claude", "claude", "shop") if is_messages else dice.pick(*ALIASES)
        is_stream = path in (CHAT, MESSAGES, RESPONSES) and dice.chance(0.3)
        if is_usual:
            alias = "claude" if is_messages else dice.pick("shop", "shop", alias)
            self._ask_as_usual(caller, head, number, alias, is_stream=is_stream)
            return
        body = self._body(number, path, alias, is_stream=is_stream)
        self._plans.append([self._pair(is_stream=is_stream) for _ in range(1 + dice.randrange(3))])
        self._add("ask", caller, self._pieces(path, fields, body))
        if dice.chance(0.12):
            after_s = dice.pick(0.0, 0.0004, 0.0015, 0.004, 0.05, 0.3)
            self._add("leave", caller, dice.chance(0.5), after_s=after_s + 1e-5)
        if dice.chance(0.06):
            self._add("clog", caller, True, after_s=dice.pick(0.0004, 0.002, 0.02))
            self._add("clog", caller, False, after_s=dice.pick(0.05, 0.5, 3.0))

    def _ask_as_usual(self, caller, head, number, alias, *, is_stream):
        dice = self._dice
        path, fields = head
        given = "input" if path in (RESPONSES, "/v1/embeddings") else "messages"
        content = f"q{number}. " + "word " * dice.pick(1, 20, 100)
        words = content if given == "input" else [{"role": "user", "content": content}]
        asked = {"model": alias, given: words, "max_tokens": dice.pick(20, 100)}
        body = json.dumps({**asked, **({"stream": True} if is_stream else {})}).encode()
        lines = [f"POST {path} HTTP/1.1", "host: edge", *(f"{name}: {value}" for name, value in fields)]
        self._add("ask", caller, [(0.0, "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body)])
        media_type = b"text/event-stream" if is_stream else b"application/json"
        told = [b"HTTP/1.1 200 OK", b"x-request-id: up_1", b"content-type: " + media_type]
        wait_s = dice.pick(0.0006, 0.003, 0.02, 0.06)
        answers = [_streamed(each, dice) if is_stream else _whole(each, dice, is_sound=True) for each in (False, True)]
        self._plans.append([tuple([(wait_s, self._framed(list(told), each, is_stream=is_stream))] for each in answers)])

    def _body(self, number, path, alias, *, is_stream):
        dice = self._dice
        words = "word " * dice.pick(1, 1, 1, 20, 200, 3_900)
        content = f"q{number}. {words}" + dice.pick("", "", "", "é漢", '"quoted" \\ /')
        fields = {"model": alias}
        if path in (RESPONSES, "/v1/embeddings"):
            fields["input"] = content
        else:
            fields["messages"] = [{"role": "user", "content": content}]
        if path.startswith(MESSAGES) or dice.chance(0.5):
            fields["max_output_tokens" if path == RESPONSES else "max_tokens"] = dice.pick(
                1, 20, 100, 100, 100, 5_000, 0
            )
        if is_stream or dice.chance(0.1):
            fields["stream"] = is_stream
        if dice.chance(0.1):
            fields[dice.pick("thinking", "tools", "n", "user", "stream_options")] = dice.pick(None, 2, [], {}, "x")
        text = json.dumps(fields, ensure_ascii=dice.chance(0.5), indent=dice.pick(None, None, None, 1))
        if dice.chance(0.05):
            text = dice.pick(text[:-1], text + " ", f'{{"model":"shop",{text[1:]}', "[]", "\ufeff" + text, "")
            text = text if f"q{number}." in text else f'{{"q{number}.":{text or 1}'
        return text.encode()

    def _pieces(self, path, fields, body):
        """Return a request as it arrives."""
        dice = self._dice
        lines = [f"POST {path} HTTP/1.1", "host: edge", *(f"{name}: {value}" for name, value in fields)]
        if dice.chance(0.05):
            lines.append(dice.pick("connection: close", "expect: 100-continue", "content-encoding: gzip"))
        if dice.chance(0.07):
            framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            whole = "\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode() + framed
        else:
            lines.append(f"content-length: {len(body) + (dice.chance(0.02) * 9)}")
            whole = "\r\n".join([*lines, "", ""]).encode() + body
        return self._cut(whole, often=0.2, waits=(0.0003, 0.002, 0.05))

    def _cut(self, content, *, often, waits):
        dice = self._dice
        if not dice.chance(often):
            return [(0.0, content)]
        borders = sorted(1 + dice.randrange(max(1, len(content) - 1)) for _ in range(1 + dice.randrange(3)))
        cut = [content[a:b] for a, b in zip([0, *borders], [*borders, len(content)], strict=True)]
        return [(0.0 if at == 0 else dice.pick(*waits), each) for at, each in enumerate(cut) if each]

    # What a model server does.

    def _pair(self, *, is_stream):
        return self._plan(False, is_stream=is_stream), self._plan(True, is_stream=is_stream)

    def _grant(self):
        """Return how a scheduler answers: after how long, with which refusal, and when it takes a place back."""
        dice = self._dice
        refused = dice.pick(*NO_PLACE) if dice.chance(0.2) else None
        return dice.pick(0.0, 0.0, 0.001, 0.02, 0.3), refused, dice.pick(*[1e6] * 9, 0.1)

    def _plan(self, is_anthropic, *, is_stream):
        dice = self._dice
        is_stream = is_stream is not dice.chance(0.03)
        content = _streamed(is_anthropic, dice) if is_stream else _whole(is_anthropic, dice)
        status = b"200 OK" if dice.chance(0.85) else dice.pick(b"400 No", b"404 No", b"429 No", b"500 No", b"503 No")
        if status != b"200 OK":
            content = b'{"error":{"message":"no","type":"x"}}'
        lines = [b"HTTP/1.1 " + status, b"x-request-id: up_1"]
        media_type = b"text/event-stream" if is_stream and status == b"200 OK" else b"application/json"
        if dice.chance(0.05):
            media_type += dice.pick(b"; charset=utf-8", b"x", b";")
        lines.append(b"content-type: " + media_type)
        if status.startswith(b"429") and dice.chance(0.5):
            lines.append(b"retry-after: " + dice.pick(b"1", b"7", b"soon"))
        whole = self._framed(lines, content, is_stream=is_stream)
        if dice.chance(0.04):
            whole = b"HTTP/1.1 100 Continue\r\n\r\n" + whole
        pieces = self._cut(whole, often=0.6 if is_stream else 0.15, waits=(0.0007, 0.004, 0.03, 0.25))
        wait_s = dice.pick(0.0, 0.0006, 0.0012, 0.003, 0.02, 0.06, 0.06, 0.5)
        pieces[0] = (wait_s, pieces[0][1])
        if dice.chance(0.12):
            pieces = self._faulty(pieces)
        return pieces

    def _framed(self, lines, content, *, is_stream):
        dice = self._dice
        if dice.chance(0.05):
            lines.append(b"connection: close")
        if is_stream or dice.chance(0.15):
            size = dice.pick(len(content), len(content), 7, 40)
            chunks = [content[at : at + size] for at in range(0, len(content), size or 1)]
            framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
            return b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", b""]) + framed
        length = len(content) + dice.pick(*(0,) * 30, 5, -5)
        return b"\r\n".join([*lines, b"content-length: %d" % max(0, length), b"", b""]) + content

    def _faulty(self, pieces):
        """Return an answer that goes wrong somewhere."""
        dice = self._dice
        at, end = dice.randrange(len(pieces)), dice.pick(CLOSE, ConnectionResetError("reset"))
        after_s, piece = pieces[at]
        kind = dice.randrange(6)
        if kind == 0:
            return [(dice.pick(0.0, 0.001, 0.02), end)]
        if kind == 1:
            return [*pieces[:at], (after_s, piece[: dice.randrange(len(piece)) or 1]), (0.0005, end)]
        if kind == 2:
            return [*pieces, (dice.pick(0.0, 0.0005, 0.01), end)]
        if kind == 3:
            return [*pieces, (dice.pick(0.0, 0.0005), b"more")]
        if kind == 4:
            return [*pieces[:at], (after_s + dice.pick(2.5, 70.0), piece), *pieces[at + 1 :]]
        return [(0.001, b"what?\r\n\r\n")]

    # What is changed meanwhile.

    def _trouble(self, callers, state):
        dice = self._dice
        kind = dice.randrange(11)
        if kind == 0:
            self._add("hang_up")
        elif kind == 1:
            self._add("speak", dice.pick(b"HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n", b"x"))
        elif kind == 2:
            self._at += dice.pick(0.6, 3.0, 6.0, 61.0)
        elif kind == 3:
            self._add("leave", dice.randrange(callers), dice.chance(0.5))
        else:
            changed = self._changed(kind, state)
            self._add("follow", changed)
            if dice.chance(0.8):
                # Most of what is changed is changed back before long.
                back = {**state, "rows": changed.get("rows"), "keys": changed.get("keys")}
                self._add("follow", back, after_s=dice.pick(0.01, 0.3, 2.0))
            else:
                state.update(changed)

    def _changed(self, kind, state):
        dice = self._dice
        if kind == 4:
            return {**state, "rows": False, "keys": True, "revoked": dice.pick("revoked", "models", "expires", "same")}
        if kind == 5:
            return {**state, "rows": True, "keys": False, "limits": self._limits()}
        if kind == 6:
            return {**state, "rows": False, "keys": False, "kills": self._kills()}
        if kind == 7:
            return {**state, "rows": True, "keys": False, "betas": self._betas(), "prices": dice.randrange(3)}
        if kind == 9:
            return {**state, "rows": True, "keys": False, "candidate": self._candidate()}
        away = dice.pick("is_away", "is_upstream_away", "is_scheduler_away", "route", "crowded")
        return {**state, "rows": away in ("route", "crowded"), "keys": False, away: True}

    def _candidate(self):
        """Return what a second version gets: of which alias, how, how much of it, and until when."""
        dice = self._dice
        until_us = EPOCH_US + dice.pick(500_000, 3_000_000, *[40_000_000] * 4)
        given_bp = dice.pick(2_000, 6_000, 10_000, 10_000)
        return dice.pick("shop", "shop", "shop", "pooled"), dice.pick("canary", "shadow"), given_bp, until_us

    def _limits(self):
        dice = self._dice
        kinds = (
            Dimension.REQUESTS,
            Dimension.TOKENS,
            Dimension.OUTPUT_TOKENS,
            Dimension.CONCURRENCY,
            Dimension.USD_DAY,
        )
        return [
            (kind, dice.pick(10**7, 10**7, 10**7, 10**7, 600, 60, 2) * (10**6 if kind.is_usd else 1), dice.chance(0.8))
            for kind in kinds
            if dice.chance(0.3)
        ]

    def _betas(self, rarely=1):
        dice = self._dice
        if dice.randrange(rarely):
            return []
        kinds = (
            ("header", "x-interlock-beta", "fast"), ("header", "anthropic-beta", "late"),
            ("parameter", "thinking", "thoughts"), ("endpoint", CHAT, "chats"), ("endpoint", RESPONSES, "answers"),
        )  # fmt: skip
        return [
            (kind, value, name, dice.pick(TENANT, TENANT, OTHER, SYSTEM_ORGANIZATION_ID), dice.chance(0.7),
             dice.pick(None, None, EPOCH_US + 1, EPOCH_US + 3_000_000), dice.pick(None, None, EPOCH_US + 2_000_000))
            for kind, value, name in kinds
            if dice.chance(0.4)
        ]  # fmt: skip

    def _kills(self):
        dice = self._dice
        scopes = (
            ("gateway", "*"), ("route", "shop"), ("route", "claude"), ("route", "two"), ("deployment", "du"),
            ("provider", "a"), ("key", str(KEY_IDS[0])), ("key", str(KEY_IDS[1])), ("organization", str(TENANT)),
            ("organization", str(OTHER)), ("workspace", str(WORKSPACE)), ("beta", "fast"), ("beta", "thoughts"),
            ("crawler", "*"), ("pool", "p"), ("class", "batch"), ("deployment", "dv"),
        )  # fmt: skip
        owners = (TENANT, TENANT, OTHER, SYSTEM_ORGANIZATION_ID)
        return [(*dice.pick(*scopes), dice.pick(*MODES), dice.pick(*owners)) for _ in range(1 + dice.randrange(2))]


def _whole(is_anthropic, dice, *, is_sound=False):
    text = "word " * dice.pick(1, 20, 60, 60, 60 if is_sound else 14_000)
    made = dice.pick(
        *[{}] * (not is_sound), {"prompt_tokens": dice.pick(1, 30, 900), "completion_tokens": dice.pick(0, 6, 70)}
    )
    if is_anthropic:
        usage = {"input_tokens": dice.pick(1, 30, 900), "output_tokens": dice.pick(0, 6, 70)}
        made = {"id": "m", "type": "message", "role": "assistant", "model": "x", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": text}], "usage": dice.pick(usage, usage, usage, {})}  # fmt: skip
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        made = {"id": "c", "object": "chat.completion", "model": "x", "choices": [choice], "usage": made}
    content = json.dumps(made).encode()
    return content if is_sound or dice.chance(0.95) else dice.pick(b"", b"{}", content[:-1], b"[]", b"null")


def _streamed(is_anthropic, dice):
    count = 1 + dice.randrange(5)
    if is_anthropic:
        start = {"id": "m", "type": "message", "role": "assistant", "model": "x", "content": [], "stop_reason": None,
                 "usage": {"input_tokens": 12, "output_tokens": 1}}  # fmt: skip
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
        events += [delta] * count + [{"type": "content_block_stop", "index": 0}]
        events += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": count}},
                   {"type": "message_stop"}]  # fmt: skip
        return b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events)
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "x"}
    events = [{**chunk, "choices": [{"index": 0, "delta": {"content": "word "}}]}] * count
    events.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if dice.chance(0.5):
        events.append({**chunk, "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": count}})
    return b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in events) + b"data: [DONE]\n\n"


# What a state of the world is in rows.


def keys_of(state):
    """Return the keys as they are in a state of the world."""
    kind, records = state.get("revoked"), []
    for at, key in enumerate(KEYS):
        changed = {}
        if at == 0 and kind is not None:
            changed = {
                "revoked": {"revoked_us": 1}, "models": {"models": ["claude"]}, "same": {},
                "expires": {"expires_us": EPOCH_US + 2_500_000},
            }[kind]  # fmt: skip
        given = {
            "organization_id": TENANT, "workspace_id": WORKSPACE, "id": KEY_IDS[at], "lookup": key.lookup,
            "kind": key.kind, "hmac": hash_key(key.text, PEPPER), "last4": key.last4, "name": f"key-{at}",
            "owner_id": UUID(int=9), "owner_kind": "service_account", "scopes": ["inference"], "models": ["*"],
            "cidrs": [], "memberships": [("developer", None)], **changed,
        }  # fmt: skip
        records.append(KeyRecord(**given))
    return records


def rows_of(state):
    """Return the rows as they are in a state of the world."""
    prices = ((None, None), (2_000_000, 8_000_000), (150_000, 600_000))[state.get("prices", 0)]
    most = 1 if state.get("crowded") else None
    first = "dv" if state.get("route") else "du"
    routes = {
        "shop": RouteSpec(targets=(Target(first),)),
        "claude": RouteSpec(targets=(Target("da"),)),
        "two": RouteSpec(
            targets=(Target("du"), Target("dv")), strategy=Strategy.WEIGHTED, degrade_to="shop",
            fallbacks=(Fallback("dv", (Trouble.ERROR, Trouble.TIMEOUT)),),
        ),
        "slow": RouteSpec(targets=(Target("dv"),), timeouts_ms=SHORT, attempts_max=3),
        "dear": RouteSpec(targets=(Target("dw"),), degrade_to="shop"),
        "pooled": RouteSpec(
            targets=(Target("dp"),), degrade_to="shop", fallbacks=(Fallback("du", (Trouble.OVERLOADED,)),),
        ),
        "mixed": RouteSpec(
            targets=(Target("dp"), Target("dv")), strategy=Strategy.PRIORITY, fallbacks=(Fallback("da", TROUBLES),),
        ),
        "back": RouteSpec(
            targets=(Target("da"), Target("dv")), strategy=Strategy.LEAST_BUSY, attempts_max=3,
            fallbacks=(Fallback("du", TROUBLES), Fallback("dp", TROUBLES)),
        ),
    }  # fmt: skip
    versions = tuple(Route(TENANT, name, 1, 0, spec) for name, spec in routes.items())
    weights = ()
    if state.get("candidate"):
        alias, mode, weight_bp, until_us = state["candidate"]
        tried = RouteSpec(targets=(Target("dv"), Target("dp")), strategy=Strategy.PRIORITY, gate=Gate.OFF)
        versions += (Route(TENANT, alias, 2, 0, tried, "sha256:2"),)
        weights = (Weight(TENANT, alias, 1, 2, mode, weight_bp, expires_us=until_us),)
    return DirectoryRows(
        providers=(
            Provider(TENANT, "u", ProviderKind.OPENAI, "http://192.0.2.9:8000/v1"),
            Provider(TENANT, "a", ProviderKind.ANTHROPIC, ANTHROPIC),
            Provider(TENANT, "p", ProviderKind.POOL, pool="p"),
        ),
        deployments=(
            Deployment(TENANT, "du", "u", "model-u", *prices, max_concurrent=most),
            Deployment(TENANT, "dv", "u", "model-v", max_concurrent=2),
            Deployment(TENANT, "dw", "u", "model-w", *prices, capabilities=Capabilities(context_tokens=400)),
            Deployment(TENANT, "da", "a", "model-a", *prices),
            Deployment(TENANT, "dp", "p", "model-p", *prices),
        ),
        routes=versions,
        weights=weights,
        limits=tuple(
            Limit(
                UUID(int=500 + list(Dimension).index(kind)), TENANT, LimitScope.KEY, str(KEY_IDS[0]), kind, "*",
                most_of, most_of, LimitMode.ENFORCE if is_enforced else LimitMode.OBSERVE, 1 + most_of,
            )
            for kind, most_of, is_enforced in state.get("limits", ())
        ),
        betas=tuple(
            Beta(owner, name, kind, value, (TENANT,) if is_open else (), since, until)
            for kind, value, name, owner, is_open, since, until in state.get("betas", ())
        ),
    )  # fmt: skip


def kills_of(state):
    """Return the switches that are on in a state of the world."""
    return [
        Kill(
            id=f"kill_{at}", organization_id=owner, scope=scope, target=target, mode=mode, reason="", actor="a",
            created_us=1,
        )
        for at, (scope, target, mode, owner) in enumerate(state.get("kills", ()))
    ]  # fmt: skip
