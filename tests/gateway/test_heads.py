"""A head that was let in is let in again by what is kept of it, and never otherwise than by the rules themselves."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.flags import FlagsConfig, KillSwitches
from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.identity import Authenticator, KeyDirectory
from interlock.foundation.identity.directory import KeyRecord
from interlock.foundation.identity.domain.keys import hash_key, make_key
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory
from interlock.foundation.store.failures import store_unavailable
from interlock.foundation.telemetry import Spool, TelemetryConfig, step_of
from interlock.foundation.wire import Exchange, Headers, Request
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.betas import Beta
from interlock.gateway.domain.directory import Directory, DirectoryRows
from interlock.gateway.service.admit import Admission
from interlock.gateway.service.arms import Arms, NoVerdicts
from interlock.gateway.service.passage import Passage
from tests.support.clocks import HandClock

CLOCK, DICE = SystemClock(), SystemDice()
HEADS_SENT = 4
PEPPERS = [b"pepper", b"the pepper before"]
PATHS = ("/v1/chat/completions", "/v1/responses")
PEERS = ("192.0.2.1", "198.51.100.7", None)
# What a head may say beside its key.
MORE = (
    (),
    ((b"x-client-request-id", b"mine-1"),),
    ((b"x-interlock-tags", b"team=search"), (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")),
    ((b"x-interlock-tags", b"no tags"),),
    ((b"interlock-version", b"2026-01-01"),),
    ((b"x-interlock-beta", b"fast"),),
    ((b"x-interlock-task", b"task_1"),),
)  # fmt: skip
_FACTS = (
    "organization_id", "workspace_id", "key_id", "key_models", "class_max", "key_kind", "trace_id", "tags",
    "client_request_id", "common_headers", "links", "betas", "principal",
)  # fmt: skip


@dataclass
class Side:
    """One edge's rules of the head: with a memory of heads, or without."""

    admission: Admission
    authenticator: Authenticator

    def answer(self, exchange, world):
        """What is decided of a head, without its moments."""
        passage = Passage(exchange, world.ids.new(), world.spool, world.clock)
        passage.decide("received", "http.request", "ok", "")
        refusal = None if self.admission.recall(passage) else run(self.admission.identify(passage))
        passage.close(is_told=False)
        told = [(step_of(each), *each[2:]) for each in passage.decisions]
        # The second side of a key's use is by the moment, which both sides share.
        return refusal, {name: getattr(passage, name) for name in _FACTS}, told, self.authenticator.take_used()


class Away:
    """A store that is away."""

    def ops(self, _reason):
        raise store_unavailable("away")


def switch_on(scope, target, organization_id):
    """A switch that refuses."""
    named = {"scope": scope, "target": target, "mode": "reject", "reason": "a test", "actor": "nobody"}
    return Kill(id="kill_1", organization_id=organization_id, created_us=0, **named)


def run(coroutine):
    """Run what never waits, as the store of these tests is away."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


class Heads(RuleBasedStateMachine):
    """Keys, switches, betas and time change in any order; heads are sent again and again."""

    def __init__(self):
        super().__init__()
        self.clock = HandClock()
        self.clock.stop()
        self.ids = IdFactory(self.clock, DICE)
        self.folder = Path(tempfile.mkdtemp(prefix="il-heads-"))
        self.spool = Spool(self.folder / "edge.ring", self.clock, TelemetryConfig(ring_bytes=1 << 16))
        self.keys = KeyDirectory(Away())
        self.switches = KillSwitches(None, self.clock, None, b"s", FlagsConfig())
        self.records, self.texts, self.heads = {}, [], []
        self.kills, self.betas = (), ()
        self.sides = [self.side(EdgeConfig(heads_max=3)), self.side(EdgeConfig())]
        self.sides[1].admission.recall = lambda _: False
        self.new_directory()
        self.add_key("live", expires_s=None, is_old=False, cidr=False, scope="inference")

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.folder)

    def side(self, config):
        authenticator = Authenticator(self.keys, PEPPERS, self.clock)
        arms = Arms(NoVerdicts(), self.clock)
        return Side(Admission(authenticator, self.switches, arms, config, self.clock), authenticator)

    def new_directory(self):
        directory = Directory(DirectoryRows(betas=self.betas))
        for side in self.sides:
            side.admission.directory = directory

    def publish(self):
        self.keys.load(msgspec.msgpack.encode(list(self.records.values())))

    @rule(
        kind=st.sampled_from(["live", "task"]), expires_s=st.sampled_from([None, 5, 50]), is_old=st.booleans(),
        cidr=st.booleans(), scope=st.sampled_from(["inference", "inference", "inference", "requests:read"]),
    )  # fmt: skip
    def add_key(self, kind, expires_s, is_old, cidr, scope):
        new = make_key(kind, DICE)
        self.texts.append(new.text)
        now_us = self.clock.now_us()
        self.records[new.text] = KeyRecord(
            organization_id=self.ids.new(), workspace_id=self.ids.new(), id=self.ids.new(), lookup=new.lookup,
            kind=new.kind, hmac=hash_key(new.text, PEPPERS[is_old]), last4=new.last4,
            name="task_1" if kind == "task" else "k", owner_id=self.ids.new(), owner_kind="service_account",
            scopes=[scope], models=["*"],
            cidrs=["192.0.2.0/24"] if cidr else [],
            expires_us=None if expires_s is None else now_us + expires_s * 1_000_000,
            memberships=[("developer", None)],
        )  # fmt: skip
        self.publish()
        self.add_head((), PATHS[0], PEERS[0])

    @rule(more=st.sampled_from(MORE), path=st.sampled_from(PATHS), peer=st.sampled_from(PEERS))
    def add_head(self, more, path, peer):
        headers = Headers([(b"authorization", f"Bearer {self.texts[-1]}".encode()), *more])
        self.heads = [*self.heads, [headers, path, peer]][-HEADS_SENT:]

    @rule(at=st.integers(0, 99), peer=st.sampled_from(PEERS))
    def move(self, at, peer):
        if self.heads:
            self.heads[at % len(self.heads)][2] = peer

    def send(self, headers, path, peer):
        request = Request("POST", path.encode(), headers, "1.1", 0)
        request.path, request.peer, request.received_us = path, peer, self.clock.now_us()
        exchange = Exchange(None, request, "req_x", is_last=False)
        return [side.answer(exchange, self) for side in self.sides]

    @rule(at=st.integers(0, 99))
    def revoke(self, at):
        record = self.records[self.texts[at % len(self.texts)]]
        changed = msgspec.structs.replace(record, revoked_us=self.clock.now_us(), version=record.version + 1)
        self.records[self.texts[at % len(self.texts)]] = changed
        self.publish()

    @rule(at=st.integers(0, 99))
    def delete(self, at):
        if len(self.texts) > 1:
            del self.records[self.texts.pop(at % len(self.texts))]
            self.publish()

    @rule(seconds=st.sampled_from([1, 4, 60]))
    def pass_time(self, seconds):
        self.clock.forward += seconds

    @rule(scope=st.sampled_from(["none", "none", "none", "gateway", "organization", "key"]), at=st.integers(0, 99))
    def switch(self, scope, at):
        record = self.records[self.texts[at % len(self.texts)]]
        target = {"gateway": "*", "organization": str(record.organization_id), "key": str(record.id)}.get(scope)
        kills = () if target is None else (switch_on(scope, target, record.organization_id),)
        self.switches._replace(kills, ())

    @rule(is_on=st.booleans(), match=st.sampled_from(["header", "endpoint"]))
    def change_betas(self, is_on, match):
        now_us = self.clock.now_us()
        beta = Beta(
            SYSTEM_ORGANIZATION_ID,
            "fast",
            match,
            "fast" if match == "header" else PATHS[0],
            until_us=now_us + 5_000_000,
        )
        self.betas = (beta,) if is_on else ()
        self.new_directory()

    @invariant()
    def whatever_happened_both_sides_answer_each_head_alike(self):
        for head in self.heads:
            kept, plain = self.send(*head)
            assert kept == plain

    @invariant()
    def no_more_heads_are_kept_than_may_be(self):
        statistics = self.sides[0].admission.statistics()
        assert statistics["heads"] <= statistics["heads_max"] == 3


TestHeads = Heads.TestCase
TestHeads.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_an_equal_head_is_let_in_by_what_is_kept_of_it_until_its_key_is_revoked():
    world = Heads()
    headers, path, peer = world.heads[0]
    admission = world.sides[0].admission

    def is_recalled():
        request = Request("POST", path.encode(), headers, "1.1", 0)
        request.path, request.peer = path, peer
        return admission.recall(Passage(Exchange(None, request, "req_x", is_last=False), world.ids.new(), None, CLOCK))

    assert not is_recalled()
    world.send(headers, path, peer)
    assert is_recalled()
    world.revoke(0)
    assert not is_recalled()
    world.teardown()


def test_a_head_that_is_too_long_to_be_shared_is_not_kept():
    world = Heads()
    key = world.heads[0][0].items[0]
    for rest, kept in ((b"a" * 3_000, 1), (b"a" * 5_000, 0)):
        side = world.side(EdgeConfig())
        side.admission.directory = world.sides[0].admission.directory
        world.sides = [side]
        assert world.send(Headers([key, (b"x-padding", rest)]), PATHS[0], PEERS[0])[0][0] is None
        assert side.admission.statistics()["heads"] == kept
    world.teardown()
