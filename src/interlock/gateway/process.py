"""One edge process put together: its services in their order, its loops, its end.

Holds no rule; `wiring.py` gives it the foundation and a listening socket.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from interlock.contracts.gates import VerdictVerifier, VerifyingKey, VerifyingKeys
from interlock.contracts.scheduling import BypassSource, GrantBroker, LeaderSource
from interlock.foundation.clock import Clock, Dice, SystemDice
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import ChangeFeed, KillSwitches, Snapshot
from interlock.foundation.identity import Authenticator, KeyDirectory, LastUsed
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Store
from interlock.foundation.telemetry import Metrics, Shipper, SpanExport, Spool
from interlock.foundation.wire import Client, Server, WireLimits
from interlock.gateway.adapters.bypass import BypassBroker
from interlock.gateway.adapters.control_proxy import ControlProxy
from interlock.gateway.adapters.grants import GrantClient
from interlock.gateway.adapters.http_server import Edge, Readiness
from interlock.gateway.adapters.limit_socket import MachineLimits
from interlock.gateway.adapters.public_addresses import PublicAddresses
from interlock.gateway.adapters.schedulers import Schedulers
from interlock.gateway.config import EdgeConfig, LimitsConfig
from interlock.gateway.domain.arm_counts import ArmBook
from interlock.gateway.domain.buckets import MICRO
from interlock.gateway.domain.directory import Directory
from interlock.gateway.domain.estimate import Estimator
from interlock.gateway.metrics import EdgeMetrics
from interlock.gateway.service.admit import Admission
from interlock.gateway.service.arms import Arms, NoVerdicts
from interlock.gateway.service.attempts import Attempts
from interlock.gateway.service.chat import ChatService
from interlock.gateway.service.entrance import Entrance
from interlock.gateway.service.grants import GrantBook
from interlock.gateway.service.place import Placer, SecretOpener
from interlock.gateway.service.relay import Clients, Relay
from interlock.gateway.service.replays import Replays
from interlock.gateway.service.reserve import Limiter
from interlock.gateway.service.settle import Settler
from interlock.gateway.service.shadows import Shadows
from interlock.gateway.service.targets import Targets
from interlock.gateway.service.ways import Ways
from interlock.gateway.store.limit_leases import StoredLimits
from interlock.gateway.store.replies import StoredReplies
from interlock.gateway.worker import ArmShipper, Memory

log = structlog.get_logger("interlock.gateway")
_FLUSH_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """What an edge is made of. `worker` names the process, `client` asks everybody else."""

    worker: str
    store: Store
    authenticator: Authenticator
    keys: KeyDirectory
    switches: KillSwitches
    feed: ChangeFeed
    snapshot: Snapshot
    spool: Spool
    shipper: Shipper
    metrics: Metrics
    redactor: Redactor
    client: Client
    control_socket: Path
    scheduler_sockets: tuple[Path, ...]
    internal_token: str = field(repr=False)
    reply_key: bytes = field(repr=False)
    readiness: Readiness
    used: LastUsed
    clock: Clock
    ids: IdFactory
    limits_socket: Path
    dice: Dice = field(default_factory=SystemDice)
    config: EdgeConfig = field(default_factory=EdgeConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    wire: WireLimits = field(default_factory=WireLimits)
    open_secret: SecretOpener | None = None
    verifier: VerdictVerifier = field(default_factory=NoVerdicts)
    verifying: VerifyingKeys = field(default_factory=NoVerdicts)
    public_client: Client | None = None
    on_metrics: Callable[[str, int, float], None] | None = None
    bypass: BypassSource | None = None
    leaders: LeaderSource | None = None
    spans: SpanExport | None = None


class EdgeProcess:
    """Serves the public port: `start`, `listen`, `run` until cancelled, `drain`."""

    def __init__(self, parts: EdgeParts) -> None:
        self._parts = parts
        config, clock = parts.config, parts.clock
        metrics = EdgeMetrics(parts.metrics)
        self.schedulers = Schedulers([f"unix:{each}:" for each in parts.scheduler_sockets], parts.leaders)
        asked = GrantClient(parts.client, self.schedulers, parts.internal_token, config)
        self._broker = self._grant_broker(asked)
        self.grants = GrantBook(self._broker, parts.spool, clock, config, parts.worker)
        asked.on_new_leader = self.grants.report_now
        self.limits = _machine_limits(parts)
        self.limiter = Limiter(self.limits, self.limits.worker, clock, parts.limits, parts.metrics)
        self.limits.adopted = self.limiter.adopted
        self.memory = Memory(
            store=parts.store,
            feed=parts.feed,
            keys=parts.keys,
            switches=parts.switches,
            verifying=parts.verifying,
            snapshot=parts.snapshot,
            config=config,
            clock=clock,
            leases_kept_s=parts.limits.lease_kept_s,
        )
        self.arms = Arms(parts.verifier, clock)
        self.arm_book = ArmBook(config.arm_units_max, config.arm_seconds_max)
        self._arm_shipper = ArmShipper(
            parts.store, self.arm_book, self.arms.live, clock=clock, config=config, ids=parts.ids
        )
        self._admission = Admission(parts.authenticator, parts.switches, self.arms, config, clock)
        self._placer = Placer(self.grants, config, parts.internal_token, parts.open_secret)
        clients = Clients(parts.client, parts.public_client or _public(parts))
        self._public = clients.public
        self.replays = Replays(StoredReplies(parts.store, parts.reply_key, parts.dice), config, clock)
        relay = Relay(clients, self.grants, parts.redactor, config, clock, self.replays)
        estimator = Estimator(config.output_tokens_default)
        settler = Settler(self.grants, self.limiter, estimator, self.arm_book, config, clock)
        self.targets = Targets(parts.switches, clock, parts.dice, queue_max=config.queue_max)
        self.entrance = Entrance(config, clock, parts.dice)
        self.shadows = self._shadows(relay, settler, metrics)
        attempts = self._attempts(relay, settler)
        self.ways = self._ways(estimator, relay)
        chat = self._chat(estimator, attempts, relay, self.ways)
        metrics.watch_seats(self.entrance.statistics)
        metrics.watch_gaps(relay.gaps)
        metrics.watch_grants(self.grants.statistics)
        metrics.watch_targets(self.targets.statistics)
        self.edge = Edge(
            chat=chat,
            admission=self._admission,
            settler=settler,
            control=ControlProxy(parts.client, parts.control_socket, config, clock),
            readiness=parts.readiness,
            spool=parts.spool,
            metrics=metrics,
            stale_s=self.memory.stale_s,
            ways=self.ways,
            config=config,
            clock=clock,
            ids=parts.ids,
        )
        self.server = _server(self.edge, parts)
        self.server.is_proxy = self._admission.is_proxy
        metrics.watch_connections(self._turned_away)
        self.memory.on_directory(self._new_directory)
        parts.switches.on_change(self.edge.interrupt_killed)
        parts.switches.on_change(self.shadows.interrupt_killed)

    async def start(self) -> None:
        """Know keys, routes, limits and switches, from the store or from the start state on disk."""
        if isinstance(self._broker, BypassBroker):
            for topic in ("pools", "flags"):
                self._parts.feed.subscribe(topic, self._broker.reload)
        self._parts.feed.subscribe("leaders", self.schedulers.reload)
        await self.memory.start()

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        await self.server.listen(sock)

    async def run(self) -> None:
        """Run all loops until cancelled."""
        loops: tuple[Callable[[], Coroutine[None, None, None]], ...] = (
            self._parts.feed.run,
            self._parts.switches.run,
            self.memory.run,
            self.grants.run,
            self.limits.run,
            self.limiter.run,
            self.replays.run,
            self._parts.shipper.run,
            self._arm_shipper.run,
            lambda: self._parts.used.run(self._parts.config.key_use_interval_s),
        )
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(loop())
            if self._parts.spans is not None:
                group.create_task(self._parts.spans.run())

    async def drain(self, grace_s: float) -> None:
        """Finish what runs, then hand over what is settled and told; `run` still has to be cancelled."""
        await self.server.drain(grace_s)
        await self.shadows.close()
        await self.grants.flush(_FLUSH_S)
        await self.replays.run_once()
        await self._flush_limits()
        await self._arm_shipper.run_once(is_last=True)
        await self._write_used()
        self.memory.save()

    async def _flush_limits(self) -> None:
        self.limiter.flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self.limits.flush()

    async def _write_used(self) -> None:
        try:
            await self._parts.used.run_once()
        except (InterlockError, OSError) as error:
            log.warning("last_use_not_written", error=str(error))

    async def close(self) -> None:
        """Ship what is left and let go of the ring; what the store does not take now, the next start ships."""
        try:
            await self._parts.shipper.run_once()
        except (InterlockError, OSError) as error:
            log.warning("spool_left_for_the_next_start", error=str(error))
        if self._parts.spans is not None:
            await self._parts.spans.run_once()
        self._parts.spool.close()
        await self._parts.client.close()
        await self._public.close()

    def _grant_broker(self, client: GrantBroker) -> GrantBroker:
        parts = self._parts
        if parts.bypass is None:
            return client
        return BypassBroker(client, parts.bypass, parts.clock, parts.ids, parts.switches, parts.config)

    def _attempts(self, relay: Relay, settler: Settler) -> Attempts:
        parts = self._parts
        return Attempts(
            admission=self._admission,
            targets=self.targets,
            placer=self._placer,
            relay=relay,
            settler=settler,
            config=parts.config,
            clock=parts.clock,
            dice=parts.dice,
        )

    def _ways(self, estimator: Estimator, relay: Relay) -> Ways:
        parts = self._parts
        return Ways(
            admission=self._admission,
            authenticator=parts.authenticator,
            switches=parts.switches,
            estimator=estimator,
            entrance=self.entrance,
            targets=self.targets,
            limiter=self.limiter,
            placer=self._placer,
            relay=relay,
            spool=parts.spool,
            config=parts.config,
            clock=parts.clock,
        )

    def _chat(self, estimator: Estimator, attempts: Attempts, relay: Relay, ways: Ways) -> ChatService:
        return ChatService(
            admission=self._admission,
            estimator=estimator,
            limiter=self.limiter,
            placer=self._placer,
            relay=relay,
            attempts=attempts,
            entrance=self.entrance,
            replays=self.replays,
            shadows=self.shadows,
            ways=ways,
            config=self._parts.config,
        )

    def _shadows(self, relay: Relay, settler: Settler, metrics: EdgeMetrics) -> Shadows:
        return Shadows(
            admission=self._admission,
            targets=self.targets,
            placer=self._placer,
            relay=relay,
            settler=settler,
            spool=self._parts.spool,
            clock=self._parts.clock,
            ids=self._parts.ids,
            config=self._parts.config,
            on_end=metrics.copied,
        )

    def _turned_away(self) -> dict[str, int]:
        served = self.server.statistics()
        return {"too_many": served.too_many_total, "too_fast": served.too_fast_total}

    def _new_directory(self, directory: Directory, verifying: Mapping[str, VerifyingKey]) -> None:
        self.arms.replace(directory, verifying)
        self._admission.follow(directory)
        self.ways.forget()
        self._placer.forget()


def _server(edge: Edge, parts: EdgeParts) -> Server:
    return Server(
        edge.handle,
        parts.wire,
        mint=edge.mint,
        clock=parts.clock,
        on_refusal=edge.on_refusal,
        body_of=edge.body_of,
        on_forgone=edge.on_forgone,
        on_metrics=parts.on_metrics,
        take=edge.take,
    )


def _public(parts: EdgeParts) -> Client:
    return Client(parts.client.limits, parts.clock, PublicAddresses(), proxy=parts.client.proxy)


def _machine_limits(parts: EdgeParts) -> MachineLimits:
    config = parts.limits
    lease_us, live_us = round(config.lease_s * MICRO), round(config.machine_live_s * MICRO)
    store = StoredLimits(parts.store, lease_us=lease_us, live_us=live_us)
    return MachineLimits(store, parts.limits_socket, clock=parts.clock, ids=parts.ids, config=config)
