"""One whole edge in virtual time, without sockets: callers and model servers are transports in memory.

Draws nothing: `ways_script` says who asks what and when, and what a model server makes of it.
"""

import asyncio
import re
import socket
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from interlock.foundation.flags import ChangeFeed, FlagsConfig, KillSwitches, Snapshot
from interlock.foundation.identity import Authenticator, KeyDirectory
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.sim import SimDice
from interlock.foundation.store.failures import store_unavailable
from interlock.foundation.supervisor import PlatformState
from interlock.foundation.telemetry import Metrics, Shipper, Spool, TelemetryConfig
from interlock.foundation.telemetry.frames import Kind, decode_addendum, decode_record
from interlock.foundation.telemetry.story import unpack
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import EdgeConfig, EdgeParts, EdgeProcess, LimitsConfig, Readiness, roll_up
from interlock.gateway.domain.directory import Directory
from interlock.gateway.domain.replies import Claim, Taken
from interlock.gateway.service.broker import Broker
from tests.gateway.bucket_model import Model
from tests.sim.ways_pool import Grants
from tests.sim.ways_script import ANTHROPIC, CONFIG, PEPPER, keys_of, kills_of, rows_of

LIMITS = LimitsConfig(wait_s=0.1, away_s=0.3, lease_s=0.5, settle_s=0.02, beat_s=0.5)
# Worker and broker begin to gather together: of as long a time, both would end in one moment, in nobody's order.
BROKERS = replace(LIMITS, gather_s=0.0213)
NUMBERED = re.compile(rb"q(\d+)\.")
PEERS = ("192.0.2.1", "192.0.2.1", "198.51.100.7")


class Still(SimDice):
    """Chance without chance: each form takes its own number of turns, and what both decide must not hang on it."""

    def random(self):
        return 0.5

    def randrange(self, stop):
        return 0

    def shuffle(self, items):
        """Leave all in its order, as every real loop does."""


class Transport:
    """What a protocol needs of a transport; what it writes goes to `take`, and what it closes to `gone`."""

    def __init__(self, protocol, take, gone, peer=None):
        self.protocol, self._take, self._gone, self._peer = protocol, take, gone, peer
        self.sock, self._other = socket.socketpair()
        self.is_over = self.is_paused = False
        self.held = []
        self.unsent = 0

    def get_extra_info(self, name, default=None):
        return {"peername": (self._peer, 4_711) if self._peer else None, "socket": self.sock}.get(name, default)

    def write(self, piece):
        if not self.is_over and piece:
            self._take(bytes(piece))

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def get_write_buffer_size(self):
        return self.unsent

    def set_write_buffer_limits(self, **_):
        """Its owner says when it is full."""

    def is_closing(self):
        return self.is_over

    def can_write_eof(self):
        return True

    def write_eof(self):
        """The other side reads on."""

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False
        held, self.held = self.held, []
        for piece in held:
            asyncio.get_running_loop().call_soon(self.feed, piece)

    def feed(self, piece):
        """Bring bytes of the other side; None where it closed, an error where it broke the connection."""
        if self.is_over:
            return
        if self.is_paused:
            self.held.append(piece)
        elif isinstance(piece, bytes):
            self.protocol.data_received(piece)
        else:
            if piece is None:
                self.protocol.eof_received()
            self._end(piece)

    def close(self):
        self._end(None)

    abort = close

    def _end(self, error):
        if self.is_over:
            return
        self.is_over = True
        self._gone()
        asyncio.get_running_loop().call_soon(self._lost, error)

    def _lost(self, error):
        self.protocol.connection_lost(error)
        self.sock.close()
        self._other.close()

    def hang_up(self):
        """Be closed by the other side, which a look at the socket tells before the loop does."""
        if not self.is_over:
            self._other.close()


class Caller:
    """One caller: its connections, one after the other, and all that it heard on each."""

    def __init__(self, world, peer):
        self._world, self._peer = world, peer
        self._wire = None
        self.heard = []

    def ask(self, pieces):
        wire = self._wire
        if wire is None or wire.is_over:
            wire = self._connect()
        at = 0.0
        for after_s, piece in pieces:
            at += after_s
            if at:
                self._world.later(at, 0, wire.feed, piece)
            else:
                wire.feed(piece)

    def leave(self, error):
        if self._wire is not None:
            self._wire.feed(error)

    def clog(self, *, is_clogged):
        """Take nothing for a while, or again."""
        wire = self._wire
        if wire is None or wire.is_over or wire.protocol.is_clogged is is_clogged:
            return
        wire.unsent = 1 << 18 if is_clogged else 0
        (wire.protocol.pause_writing if is_clogged else wire.protocol.resume_writing)()

    def _connect(self):
        heard = [b"", False]
        self.heard.append(heard)

        def take(piece):
            heard[0] += piece

        def gone():
            heard[1] = True

        protocol = self._world.process.server._connect()
        self._wire = Transport(protocol, take, gone, self._peer)
        protocol.connection_made(self._wire)
        return self._wire


class ModelServer:
    """Model servers of all addresses: what each does with a question was drawn before."""

    def __init__(self, world, plans):
        self._world, self._plans = world, plans
        self.asked = []
        self.wires = []
        self.is_away = False

    async def dial(self, factory, host, port, **_):
        """Stand where the loop connects."""
        if self.is_away:
            raise ConnectionRefusedError(111, "refused")
        protocol, is_anthropic = factory(), host in ANTHROPIC
        wire = Transport(protocol, lambda piece: self._answer(wire, piece, is_anthropic), lambda: None)
        self.wires.append(wire)
        protocol.connection_made(wire)
        return wire, protocol

    def speak(self, piece):
        """Say something that nobody asked for on whichever connection is kept."""
        for wire in self.wires:
            if not wire.is_over:
                wire.feed(piece)
                return

    def hang_up(self):
        """Close the connections that are kept, which their owner has not noticed yet."""
        for wire in self.wires:
            wire.hang_up()
            self._world.later(0.003, 0, wire.feed, None)

    def _answer(self, wire, piece, is_anthropic):
        self.asked.append(piece)
        number = int(NUMBERED.search(piece)[1])
        plans = self._plans[number]
        at = 0.0
        for after_s, each in (plans.pop(0) if len(plans) > 1 else plans[0])[is_anthropic]:
            at += after_s + 1e-8
            self._world.later(at, 1 + number, wire.feed, each)


class Replies:
    """Kept answers in memory."""

    def __init__(self):
        self._kept = {}

    async def claim(self, name, owner, fingerprint, _lease_s):
        held = self._kept.get(name)
        if held is None:
            self._kept[name] = (owner, fingerprint, None, False)
            return Claim(name, owner, fingerprint, datetime(2026, 1, 1, tzinfo=UTC))
        return Taken(held[1] == fingerprint, held[3], held[0], held[2])

    async def keep(self, _scope, claim, reply, _kept_s):
        self._kept[claim.name] = (claim.owner, claim.fingerprint, reply, True)
        return True

    async def release(self, claim):
        self._kept.pop(claim.name, None)

    async def renew(self, claims, lease_s):
        """No lease of these ends."""


class Limits:
    """The store of limits: the model that is held equal to PostgreSQL, at once."""

    is_up = True

    def __init__(self, clock):
        self._clock = clock
        self.model = Model()

    async def fly(self, flight):
        return self.model.fly(flight, self._clock.now_us(), round(LIMITS.lease_s * 1e6))

    async def heartbeat(self, _machine):
        return 1


class World:
    """An edge with its callers, its model servers and its stores; `made` is the class of its process."""

    def __init__(self, folder, clock, plans, callers, made=EdgeProcess, grants=()):
        self.loop, self.clock = asyncio.get_running_loop(), clock
        self.dice = Still(1)
        self.ids = IdFactory(clock, self.dice)
        self.store = SimpleNamespace(is_up=True, ops=_away)
        self.registry = CollectorRegistry()
        self.upstream = ModelServer(self, plans)
        self.loop.create_connection = self.upstream.dial
        self.spool = Spool(folder / "edge.ring", clock, TelemetryConfig())
        self.client = Client(ClientLimits(), clock, resolve=_itself)
        self.process = made(self._parts(folder))
        self.limits = Limits(clock)
        self.broker = Broker(self.limits, clock, self.ids, BROKERS, self.ids.new())
        self.process.limiter._broker = self.broker
        self.process.replays._replies = Replies()
        self.grants = self.process.grants._broker = Grants(clock, grants)
        self.callers = [Caller(self, PEERS[at % len(PEERS)]) for at in range(callers)]

    def later(self, after_s, number, do, *given):
        """Do something at a moment of its own, by whose it is: no two fall together, whose order would be nobody's."""
        self.loop.call_later(after_s + number * 1e-7, do, *given)

    def follow(self, state):
        """Decide by other rows, keys or switches from here on."""
        parts = self.process._parts
        if state.get("keys"):
            parts.keys.load(msgspec.msgpack.encode(keys_of(state)))
        if state.get("rows"):
            self.process._new_directory(Directory(rows_of(state)), {})
        parts.switches.load(msgspec.msgpack.encode(kills_of(state)))
        self.store.is_up = not state.get("is_away")
        self.upstream.is_away = bool(state.get("is_upstream_away"))
        self.grants.is_away = bool(state.get("is_scheduler_away"))

    def outcome(self):
        """Return all that came of it, as plain values."""
        return {
            "heard": [each.heard for each in self.callers],
            # Two that were given up in one tick leave in no order.
            "asked": sorted(self.upstream.asked),
            "stories": self._stories(),
            "metrics": self._metrics(),
            "held": self.held(),
            # Of heads that never came whole.
            "minted": sorted(self.process.edge._minted),
            "limits": self._levels(),
            "grants": self.grants.told,
            "arms": sorted(map(repr, self.process.arm_book._counts.items())),
            "learned": sorted(self.process.edge._chat._estimator._ratios.items()),
            "targets": [repr(each) for each in self.process.targets.statistics()],
            "used": sorted(self.process._parts.authenticator._used),
            "wire": repr(self.process.server.statistics()),
        }

    def held(self):
        """Return what requests hold that still run."""
        process = self.process
        return {
            "passages": len(process.edge._passages),
            "places": process.entrance.taken,
            "bytes": process.edge._chat.body_bytes,
            "calls": sum(each.inflight for each in process.targets.statistics()),
            "slots": process.limiter.statistics().slots_held,
            "frames": self.spool.statistics().open,
            "handlers": process.server.statistics().handlers_running,
            "copies": process.shadows.running(),
            "grants": self.grants.held + process.grants.statistics().held + process.grants.statistics().settling,
        }

    async def close(self):
        for wire in self.upstream.wires:
            wire.abort()
        for caller in self.callers:
            caller.leave(None)
        await self.client.close()
        await self.clock.sleep(1.0)
        self.spool.close()

    def _metrics(self):
        """Return all figures by name; when one was made first is told by another clock, and by no rule."""
        return sorted(each for each in generate_latest(self.registry).decode().split("\n") if "_created" not in each)

    def _levels(self):
        fields = ("left", "credit", "back", "spent", "slots", "passed", "level", "half")
        pools = [[getattr(each, name) for name in fields] for each in self.process.limiter.pools.values()]
        levels = [(each.level, each.leased) for each in self.limits.model.buckets.values()]
        statistics = repr(self.process.limiter.statistics())
        return pools, levels, sorted(map(str, self.limits.model.spent.items())), statistics

    def _stories(self):
        found, added = {}, []
        while (batch := self.spool.take(1_000)) is not None:
            for kind, payload in batch.frames:
                if kind == Kind.ADDENDUM:
                    added.append(msgspec.to_builtins(decode_addendum(payload)))
                    continue
                record = unpack(payload) if kind == Kind.STORY else decode_record(payload)
                found[str(record.id)] = msgspec.to_builtins(record)
            self.spool.shipped(batch)
        return [found[each] for each in sorted(found)], sorted(added, key=str)

    def _parts(self, folder):
        clock, store = self.clock, self.store
        keys = KeyDirectory(store)
        state = PlatformState(ready=True)

        async def metrics():
            return ""

        return EdgeParts(
            worker="edge-0",
            store=store,
            authenticator=Authenticator(keys, [PEPPER], clock),
            keys=keys,
            switches=KillSwitches(store, clock, None, b"s", FlagsConfig()),
            feed=ChangeFeed(store, clock),
            snapshot=Snapshot(folder / "edge.snap", b"s"),
            spool=self.spool,
            shipper=Shipper(self.spool, store, clock, roll_ups=(roll_up,)),
            metrics=Metrics(self.registry),
            redactor=Redactor([]),
            client=self.client,
            control_socket=folder / "control.sock",
            scheduler_sockets=(),
            internal_token="t",
            reply_key=b"r" * 32,
            readiness=Readiness(lambda: state, metrics),
            used=None,
            clock=clock,
            ids=self.ids,
            dice=self.dice,
            config=EdgeConfig(**CONFIG),
            limits=LIMITS,
            limits_socket=folder / "limits.sock",
        )


def _away(_why):
    raise store_unavailable("away")


async def _itself(host, _port):
    return [host]


async def play(script, clock, made=EdgeProcess):
    """Run one script to its end; return what came of it, and the process that it ran in."""
    asyncio.get_running_loop()._dice = Still(0)
    with tempfile.TemporaryDirectory(prefix="il-ways-") as folder:
        plans = [list(each) for each in script.plans]
        world = World(Path(folder), clock, plans, script.callers, made, script.grants)
        process = world.process
        world.follow(script.start)
        runs = (world.broker.run, process.limiter.run, process.replays.run, process.grants.run)
        loops = [asyncio.create_task(each()) for each in runs]
        began = clock.monotonic()
        for at, what, given in script.events:
            await clock.sleep(max(0.0, began + at - clock.monotonic()))
            await EVENTS[what](world, *given)
        # A scheduler that never came back would be owed its settlements for ever, and rightly.
        world.grants.is_away = False
        await clock.sleep(script.rest_s)
        outcome = world.outcome()
        await world.close()
        for each in loops:
            each.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*loops, return_exceptions=True)
        return outcome, process


async def _ask(world, caller, pieces):
    world.callers[caller].ask(pieces)


async def _leave(world, caller, is_reset):
    world.callers[caller].leave(ConnectionResetError("reset") if is_reset else None)


async def _clog(world, caller, is_clogged):
    world.callers[caller].clog(is_clogged=is_clogged)


async def _follow(world, state):
    world.follow(state)


async def _speak(world, piece):
    world.upstream.speak(piece)


async def _hang_up(world):
    world.upstream.hang_up()


async def _drain(world, grace_s):
    await world.process.server.drain(grace_s)


EVENTS = {
    "ask": _ask, "leave": _leave, "clog": _clog, "follow": _follow, "speak": _speak, "hang_up": _hang_up,
    "drain": _drain,
}  # fmt: skip
