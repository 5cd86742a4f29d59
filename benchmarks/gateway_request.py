"""gateway_request: what a request costs an edge without its sockets, by parts, and how many calls it makes.

CPU of the thread, least of many batches, all variants in turn; a part is what its absence saves by the rules, as a
known way has no parts to be left out; parts overlap.
Records nothing: it is for whoever changes the path of a request. Run: `make bench B=gateway_request`, or
`python -m benchmarks.gateway_request calls | limits | against SRC`: calls by file; the same with two limits; the `src`
of another tree, measured in turn with this one. WHAT=stream asks for streams, BATCHES sets how many.
"""

# ruff: noqa: SLF001 - parts are taken out of the middle of an edge

import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from benchmarks.worlds.edge_lab import CLOCK, CONNECTIONS, IS_STREAM, UPSTREAM, Lab
from interlock.foundation.telemetry import Attempt, Outcome, Usage
from interlock.foundation.wire import Exchange, Timeouts
from interlock.gateway.domain.envelope import Dialect, decode_envelope
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.translate.talk import Facts, talk_of
from interlock.gateway.service.passage import Passage

BATCHES = int(os.environ.get("BATCHES", "60"))
JSON = (b"content-type", b"application/json")
ASKED = ((b"content-type", b"application/json"), (b"user-agent", b"interlock"))
TIMEOUTS = Timeouts(2.0, 300.0, 60.0, 600.0)
ASK = Ask(600, 100)
# What a story says of a usual request, so that the bones of one tell as much.
TOLD = (
    ("authenticated", "key.lookup", "ok", "service_account by key ..abcd"),
    ("parsed", "body.chat", "ok", "2398 bytes, stream false"),
    ("model", "route.default", "found", "default@1/bench"),
    ("route", "route.default", "chosen", "default@1/bench"),
    ("attempt", "deployment.bench", "sent", "attempt 1 as bench"),
    ("head", "upstream.status_200", "ok", "529 bytes"),
)
Variant = Callable[[Lab], Iterator[None]]


class Bones:
    """The wire, the story, the body and the call of the model server, with nothing that decides between them."""

    def __init__(self, lab: Lab, *, is_bare: bool) -> None:
        self._lab = lab
        self._edge = lab.process.edge
        self._is_bare = is_bare

    async def handle(self, exchange: Exchange) -> None:
        if self._is_bare:
            await self._proxy(exchange)
            return
        lab, edge = self._lab, self._edge
        passage = Passage(exchange, edge.uuid_of(exchange.request_id), lab.spool, CLOCK)
        passage.decide("received", "http.request", "ok", f"{exchange.request.method} {exchange.request.path}"[:256])
        body = await exchange.request.body(1 << 20)
        envelope = decode_envelope(body, Dialect.CHAT)
        if isinstance(envelope, Refusal):
            raise SystemExit(envelope)
        passage.envelope, passage.is_stream = envelope, envelope.is_stream
        for told in TOLD[:3]:
            passage.decide(*told)
        passage.note()
        facts = Facts(exchange.request_id, 1, 600, 4 << 20)
        talk = talk_of(envelope, Dialect.CHAT, facts)
        question = talk.question("bench")
        passage.attempts.append(Attempt(n=1, deployment="bench", status=200))
        for told in TOLD[3:]:
            passage.decide(*told)
        url = UPSTREAM + question.path
        async with lab.client.request("POST", url, ASKED, question.body, TIMEOUTS) as answer:
            content, passage.usage = talk.whole(await answer.read(1 << 20))
            await exchange.respond(200, [JSON, (b"server-timing", b"auth;dur=0.1, upstream;dur=0.2")], content)
        passage.end(Outcome.OK, 200, "route.default")
        passage.decide("finished", "route.default", Outcome.OK, "status 200")
        passage.close(is_told=True)

    async def _proxy(self, exchange: Exchange) -> None:
        self._edge.uuid_of(exchange.request_id)
        body = await exchange.request.body(1 << 20)
        url = UPSTREAM + "/chat/completions"
        async with self._lab.client.request("POST", url, ASKED, body, TIMEOUTS) as answer:
            await exchange.respond(200, [JSON], await answer.read(1 << 20))


@contextmanager
def instead(owner: object, **given: Any) -> Iterator[None]:
    """Put other values into attributes that are there, for a while."""
    present = [name for name in given if hasattr(owner, name)]
    # What is the object's own is put back; what was its class's comes out from behind again.
    own = getattr(owner, "__dict__", None)
    kept = {name: getattr(owner, name) for name in present if own is None or name in own}
    for name in present:
        setattr(owner, name, given[name])
    try:
        yield
    finally:
        for name in present:
            if name in kept:
                setattr(owner, name, kept[name])
            else:
                delattr(owner, name)


async def nothing(*_: Any) -> None:
    """Wait for nothing and refuse nothing."""


@contextmanager
def whole(_: Lab) -> Iterator[None]:
    """Change nothing."""
    yield


@contextmanager
def bones(lab: Lab) -> Iterator[None]:
    with instead(lab.process.server, _handler=Bones(lab, is_bare=False).handle):
        yield


@contextmanager
def proxy(lab: Lab) -> Iterator[None]:
    with instead(lab.process.server, _handler=Bones(lab, is_bare=True).handle):
        yield


@contextmanager
def no_story(_: Lab) -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("decide", "note", "close", "open"):
            stack.enter_context(instead(Passage, **{name: lambda *_, **__: None}))
        yield


@contextmanager
def no_head_rules(lab: Lab) -> Iterator[None]:
    known: dict[str, Any] = {}
    names = ("principal", "organization_id", "workspace_id", "key_id", "key_models", "key_kind", "auth_ms")
    recall = lab.process._admission.recall

    def remembered(passage: Passage) -> bool:
        if not known:
            is_known = recall(passage)
            if is_known:
                known.update({name: getattr(passage, name) for name in names})
            return is_known
        passage.principal, passage.organization_id = known["principal"], known["organization_id"]
        passage.workspace_id, passage.key_id = known["workspace_id"], known["key_id"]
        passage.key_models, passage.key_kind = known["key_models"], known["key_kind"]
        passage.auth_ms = 0.1
        passage.decide(*TOLD[0])
        return True

    with instead(lab.process._admission, recall=remembered):
        yield


@contextmanager
def no_seats(lab: Lab) -> Iterator[None]:
    entrance = lab.process.entrance
    with instead(entrance, enter=nothing, at_once=lambda _: True, leave=lambda _: None):
        yield


@contextmanager
def no_envelope_rules(lab: Lab) -> Iterator[None]:
    """Leave alias, allow-list, arm, betas and switches; the body is still read."""
    found = lab.process._admission.directory.rows.routes[0]
    alias = lab.process._admission.directory.alias(found.organization_id, found.alias)
    assert alias is not None

    def read(passage: Passage, body: bytes, dialect: Dialect = Dialect.CHAT) -> Any:
        envelope = decode_envelope(body, dialect)
        assert not isinstance(envelope, Refusal)
        passage.envelope, passage.is_stream = envelope, envelope.is_stream
        passage.alias, passage.placement, passage.arm = "default", alias.stable, "stable"
        passage.decide(*TOLD[1])
        passage.decide(*TOLD[2])
        return envelope

    with instead(lab.process._admission, read_envelope=read):
        yield


@contextmanager
def no_estimate(lab: Lab) -> Iterator[None]:
    estimator = lab.process.edge._chat._estimator
    with instead(estimator, ask=lambda *_: ASK, observe=lambda *_: None):
        yield


@contextmanager
def no_limits(lab: Lab) -> Iterator[None]:
    with instead(lab.process.edge._chat, _limited_at_once=lambda *_: True):
        yield


@contextmanager
def no_attempts(lab: Lab) -> Iterator[None]:
    """Leave target, place, breaker, budget and retries: the one target is asked."""
    attempts = lab.process.edge._chat._attempts
    relay, placer = attempts._relay, attempts._placer

    async def run(passage: Passage, _: Ask, _begun: object = None) -> Any:
        passage.decide(*TOLD[3])
        place = placer.at_once(passage) or await placer.place(passage, ASK)
        return await relay.hear(passage, relay.put(passage, place, TIMEOUTS))

    with instead(attempts, run=run):
        yield


@contextmanager
def no_settling(lab: Lab) -> Iterator[None]:
    def settle(passage: Passage) -> None:
        passage.usage = passage.usage or Usage()
        passage.decide("finished", passage.rule, passage.outcome, "status 200")
        passage.close(is_told=True)

    with instead(lab.process.edge._settler, settle=settle):
        yield


@contextmanager
def no_metrics(lab: Lab) -> Iterator[None]:
    with instead(lab.process.edge._metrics, finished=lambda _: None):
        yield


VARIANTS: dict[str, Any] = {
    "whole": whole,
    "by the rules": whole,
    "proxy: wire, client": proxy,
    "bones: and story, body": bones,
    "story": no_story,
    "head rules": no_head_rules,
    "seats": no_seats,
    "alias, arm, betas": no_envelope_rules,
    "estimate": no_estimate,
    "limits": no_limits,
    "attempts, targets": no_attempts,
    "settling": no_settling,
    "metrics": no_metrics,
}
REST = ("proxy: wire, client", "bones: and story, body")


async def parts(lab: Lab) -> None:
    """Print what each part costs."""
    least = dict.fromkeys(VARIANTS, float("inf"))
    for turn in range(BATCHES + 3):
        for name, variant in VARIANTS.items():
            if IS_STREAM and name in REST:
                continue
            # What goes a known way meets no part by itself.
            by_rules = nullcontext() if name == "whole" else instead(lab.process.server, _take=None)
            with by_rules, variant(lab):
                took = await lab.batch()
            if turn >= 3:
                least[name] = min(least[name], took)
    full = least["by the rules"]
    print(f"  {'whole, a known way':<24} {least['whole']:7.1f} us")
    print(f"  {'whole, by the rules':<24} {full:7.1f} us")
    for name in REST:
        print(f"  {name:<24} {least[name]:7.1f} us, the rest {full - least[name]:.1f}")
    for name in list(VARIANTS)[4:]:
        print(f"  - {name:<22} {full - least[name]:7.1f} us")


async def calls(lab: Lab) -> None:
    """Print the calls of one request, by the file of who is called, and of C by who calls."""
    await lab.batch()
    python: Counter[str] = Counter()
    c_made: Counter[str] = Counter()
    functions: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        place = code.co_filename.rpartition("interlock/")[2]
        if event == "call":
            python[place] += 1
            functions[f"{place}:{code.co_qualname}"] += 1
        elif event == "c_call":
            c_made[place] += 1
            functions[f"{place}:{code.co_qualname} > {getattr(arg, '__qualname__', arg)}"] += 1

    sys.setprofile(note)
    await lab.batch(each=1)
    sys.setprofile(None)
    for place, count in sorted(python.items(), key=lambda each: -each[1] - c_made[each[0]]):
        print(f"  {place:<48} {count / CONNECTIONS:6.1f} of Python {c_made[place] / CONNECTIONS:6.1f} of C")
    total, total_c = sum(python.values()) / CONNECTIONS, sum(c_made.values()) / CONNECTIONS
    print(f"  {'all, resumptions included':<48} {total:6.1f} of Python {total_c:6.1f} of C")
    if os.environ.get("FUNCTIONS"):
        for name, count in sorted(functions.items(), key=lambda each: each[0]):
            print(f"    {count / CONNECTIONS:5.2f} {name}")


async def serve(lab: Lab) -> None:
    """Measure a batch for each line that comes; for whoever compares trees."""
    for _ in range(5):
        await lab.batch()
    for _ in sys.stdin:
        print(min([await lab.batch() for _ in range(4)]), flush=True)


def against(sources: str, *more: str) -> None:
    """Print this tree beside another one, measured in turn in two processes."""
    here = str(Path(__file__).parent.parent / "src")
    with ExitStack() as stack:
        trees = [stack.enter_context(_child(each, *more)) for each in (sources, here)]
        took: list[list[float]] = [[], []]
        for turn in range(2 * BATCHES):
            for at in (0, 1) if turn % 2 else (1, 0):
                took[at].append(trees[at]())
    ratio = statistics.median(new / old for old, new in zip(*took, strict=True))
    for name, values in (("other", took[0]), ("here", took[1])):
        tenth = statistics.quantiles(values, n=10)[0]
        print(f"  {name:<6} least {min(values):6.1f} us, tenth {tenth:6.1f}, median {statistics.median(values):6.1f}")
    print(f"  paired {ratio:.3f}, least {min(took[1]) / min(took[0]):.3f}")


@contextmanager
def _child(sources: str, *more: str) -> Iterator[Callable[[], float]]:
    argv = [sys.executable, "-m", "benchmarks.gateway_request", "serve", *more]
    environment = {**os.environ, "PYTHONPATH": f"{sources}:{Path(__file__).parent.parent}"}
    child = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    into, out = child.stdin, child.stdout

    def measure() -> float:
        into.write("go\n")
        into.flush()
        return float(out.readline())

    try:
        yield measure
    finally:
        child.terminate()
        child.wait(timeout=20)
        into.close()
        out.close()


async def run(words: list[str]) -> None:
    work = calls if "calls" in words else serve if "serve" in words else parts
    with tempfile.TemporaryDirectory(prefix="interlock-request-") as folder:
        await work(Lab(Path(folder), is_limited="limits" in words))


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["against"]:
        against(*words[1:])
    else:
        uvloop.run(run(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
