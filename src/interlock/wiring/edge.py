"""The edge put together: the gateway's data plane over the common ground.

Listens on the socket that the supervisor bound, or on its own when it is started by hand.
"""

import hashlib
import socket
from collections.abc import Awaitable, Callable
from uuid import UUID

from interlock import __version__
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import FlagBook
from interlock.foundation.identity import LastUsed
from interlock.foundation.ids import OrganizationId
from interlock.foundation.scope import ALL_WORKSPACES, Scope
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretsConfig, SecretService
from interlock.foundation.store import Store
from interlock.foundation.supervisor import RoleLink, listening_socket
from interlock.foundation.telemetry import (
    AbandonedRings,
    OtlpConfig,
    Shipper,
    SpanExport,
    SpanWatch,
    Spool,
    SpoolWatch,
    collector,
)
from interlock.foundation.wire import Client, ClientLimits, WireLimits
from interlock.gateway import EdgeConfig, EdgeParts, EdgeProcess, LimitsConfig, Readiness, roll_up
from interlock.scheduler.service.bypass import Bypass
from interlock.scheduler.service.leading import StoredLeaders
from interlock.wiring.gateway import verdicts
from interlock.wiring.ground import Ground, forward_proxy
from interlock.wiring.leaders import scheduler_sockets
from interlock.wiring.metrics import watch_common, watch_wire


def edge_process(ground: Ground, link: RoleLink, store: Store) -> EdgeProcess:
    """Return one edge; it serves nothing before `listen`."""
    keys, authenticator = ground.keys(store)
    feed, switches = ground.feed(store), ground.switches(store)
    spool = Spool(ground.directory.spool("edge", ground.index), ground.clock, ground.telemetry(), ground.redactor)
    spans = _span_export(ground)
    shipper = Shipper(
        spool, store, ground.clock, ground.telemetry(), (roll_up,), None if spans is None else spans.offer
    )
    SpoolWatch(ground.metrics, spool, shipper)
    watch_common(ground.metrics, store, feed)
    wire = ground.config.section(WireLimits)
    verifier, verifying = verdicts(store)
    return EdgeProcess(
        EdgeParts(
            worker=ground.name,
            store=store,
            authenticator=authenticator,
            keys=keys,
            switches=switches,
            feed=feed,
            snapshot=ground.snapshot(),
            spool=spool,
            shipper=shipper,
            metrics=ground.metrics,
            redactor=ground.redactor,
            client=Client(ground.config.section(ClientLimits), ground.clock, proxy=forward_proxy()),
            control_socket=ground.directory.socket("control"),
            scheduler_sockets=scheduler_sockets(ground),
            leaders=StoredLeaders(store),
            internal_token=ground.internal_token,
            reply_key=hashlib.sha256(b"interlock-replies\x00" + ground.pepper).digest(),
            readiness=Readiness(lambda: link.state, link.metrics),
            used=LastUsed(store, authenticator, ground.audit(), ground.clock),
            clock=ground.clock,
            ids=ground.ids,
            config=ground.config.section(EdgeConfig),
            limits_socket=ground.directory.socket("limits"),
            limits=ground.config.section(LimitsConfig),
            wire=wire,
            open_secret=_opener(ground, store),
            verifier=verifier,
            verifying=verifying,
            on_metrics=watch_wire(ground.metrics),
            bypass=Bypass(store, FlagBook(store, ground.clock)),
            spans=spans,
        )
    )


def abandoned_rings(ground: Ground, store: Store) -> AbandonedRings:
    """Return what ships the rings of edges that are not started again; the first edge does it for all."""
    telemetry = ground.telemetry()
    return AbandonedRings(
        ground.directory.spool("edge", 0).parent,
        "edge",
        ground.options.edge_workers,
        lambda spool: Shipper(spool, store, ground.clock, telemetry, (roll_up,)),
        ground.clock,
        telemetry,
    )


def _span_export(ground: Ground) -> SpanExport | None:
    """Return what sends spans to the collector of the settings, where they name one."""
    config = ground.config.section(OtlpConfig)
    if not config.endpoint:
        return None
    export = SpanExport(collector(config, ground.name, __version__), ground.clock, config)
    SpanWatch(ground.metrics, export)
    return export


def edge_socket(ground: Ground) -> socket.socket:
    """Return the listening socket: the supervisor's, or one of our own that siblings may share."""
    given = listening_socket()
    if given is not None:
        return given
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind((ground.options.host, ground.options.port))
    return own


def _opener(ground: Ground, store: Store) -> Callable[[UUID, str], Awaitable[str]]:
    """Return what opens the secret of a provider; the edge is one of two roles that can."""
    file = MasterKeyFile(ground.directory.master_key)
    box = SecretBox(ground.dice, file.read_public, file.read)
    config = ground.config.section(SecretsConfig)
    service = SecretService(box, ground.audit(), ground.ids, ground.redactor, config)
    itself = ground.platform_scope().principal

    async def open_secret(organization_id: UUID, name: str) -> str:
        scope = Scope(OrganizationId(organization_id), ALL_WORKSPACES, itself)
        async with store.transaction(scope) as tx:
            value = await service.open(tx, name)
        if value is None:
            raise InterlockError("upstream_auth_failed", f"No secret is named {name!r}.")
        return value.decode()

    return open_secret
