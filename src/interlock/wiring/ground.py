"""What every role stands on: clock, dice, ids, settings, keys of the data directory, store, logs, metrics.

Builds no system and no role.
"""

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from interlock import __version__
from interlock.foundation.audit import AuditConfig, AuditLog, CheckpointFile, CheckpointKey
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.config import Config
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.flags import ChangeFeed, FlagsConfig, KillSwitches, Snapshot
from interlock.foundation.identity import Authenticator, IdentityConfig, KeyDirectory
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory
from interlock.foundation.redaction import RedactionConfig, Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.store import Store, StoreConfig, StoreUrls, external_urls
from interlock.foundation.supervisor import DataDirectory, UpOptions
from interlock.foundation.telemetry import Metrics, TelemetryConfig, TelemetryCounters
from interlock.foundation.wire import ForwardProxy

SECRET_BYTES: Final = 32
URLS: Final = "urls"


@dataclass
class Ground:
    """The common parts of one process; `name` is `edge-0` and the like."""

    role: str
    index: int
    directory: DataDirectory
    options: UpOptions
    config: Config
    listen: tuple[str, int] | None = None
    clock: SystemClock = field(default_factory=SystemClock)
    dice: SystemDice = field(default_factory=SystemDice)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.ids = IdFactory(self.clock, self.dice)
        self.counters = TelemetryCounters(self.metrics)
        redaction = self.config.section(RedactionConfig)
        self.redactor = Redactor((), redaction, on_hit=self.counters.on_hit)
        self.metrics.build_info(__version__)

    @property
    def name(self) -> str:
        """How this process is called everywhere."""
        return f"{self.role}-{self.index}"

    @property
    def seat(self) -> str:
        """A short name of this data directory on this machine, so that two installations never share a seat."""
        return hashlib.sha256(f"{socket.gethostname()}\x00{self.directory.root}".encode()).hexdigest()[:12]

    @property
    def pepper(self) -> bytes:
        """What API keys are hashed with."""
        return self.secret(self.directory.pepper)

    @property
    def peppers(self) -> tuple[bytes, ...]:
        """The pepper in use and the one before it, while keys are still being moved from that to this."""
        old = self.directory.pepper.with_name("pepper.old")
        return (self.pepper, old.read_bytes()) if old.is_file() else (self.pepper,)

    @property
    def internal_token(self) -> str:
        """The bearer token of calls between roles."""
        return self.directory.key_file(self.directory.internal_token, self._token).decode().strip()

    @property
    def checkpoint_key(self) -> CheckpointKey:
        """The key that signs the ends of audit chains."""
        return CheckpointKey(self.secret(self.directory.audit_key))

    @property
    def checkpoint_file(self) -> CheckpointFile:
        """Where checkpoints are kept beside the store."""
        return CheckpointFile(self.directory.checkpoints)

    def secret(self, path: Path) -> bytes:
        """Return the bytes of a key file, made at the first start."""
        return self.directory.key_file(path, lambda: self.dice.randbytes(SECRET_BYTES))

    async def store(self, handover: Mapping[str, bytes], connections_max: int) -> Store:
        """Open the store that the supervisor handed over, or the one of `DATABASE_URL` for a role started by hand."""
        return await Store.open(
            await urls_from(handover),
            application_name=self.name,
            connections_max=connections_max,
            clock=self.clock,
            config=self.config.section(StoreConfig),
        )

    def audit(self) -> AuditLog:
        """Return the audit log of this process."""
        return AuditLog(self.clock, self.redactor, self.config.section(AuditConfig))

    def keys(self, store: Store) -> tuple[KeyDirectory, Authenticator]:
        """Return all keys in memory, and what judges them."""
        config = self.config.section(IdentityConfig)
        directory = KeyDirectory(store, config)
        return directory, Authenticator(directory, self.peppers, self.clock, config)

    def feed(self, store: Store) -> ChangeFeed:
        """Return the feed of changes of this process."""
        return ChangeFeed(store, self.clock, self.config.section(FlagsConfig), process=self.name)

    def switches(self, store: Store) -> KillSwitches:
        """Return the kill switches of this process."""
        config = self.config.section(FlagsConfig)
        return KillSwitches(store, self.clock, self.directory.kill_dir, self.pepper, config)

    def snapshot(self) -> Snapshot:
        """Return the start state of this role on disk."""
        return Snapshot(self.directory.snapshot(self.role), self.pepper)

    def telemetry(self) -> TelemetryConfig:
        """Return the settings of telemetry."""
        return self.config.section(TelemetryConfig)

    def platform_scope(self) -> Scope:
        """Return the scope of the platform's own rows, acting as the platform itself."""
        itself = Principal(self.ids.new(), PrincipalKind.SYSTEM, SYSTEM_ORGANIZATION_ID, is_platform_operator=True)  # type: ignore[arg-type] # the platform stands for the actor
        return Scope(SYSTEM_ORGANIZATION_ID, ALL_WORKSPACES, itself)

    def _token(self) -> bytes:
        return self.dice.randbytes(SECRET_BYTES).hex().encode() + b"\n"


def urls_to(urls: StoreUrls, *, is_owner_needed: bool) -> bytes:
    """Return the store's addresses for a role; only one that makes partitions gets the owner's."""
    given = {"owner": urls.owner if is_owner_needed else "", "app": urls.app, "ops": urls.ops}
    return msgspec.json.encode(given)


def forward_proxy() -> ForwardProxy | None:
    """Return the proxy that the environment names. Raises `BrokenWorldError` where it names none that there can be."""
    try:
        return ForwardProxy.of(os.environ)
    except ValueError as error:
        raise BrokenWorldError("setting_invalid", str(error), "correct HTTPS_PROXY, or unset it") from error


async def urls_from(handover: Mapping[str, bytes]) -> StoreUrls:
    """Return the store's addresses. Raises `BrokenWorldError` where nobody says where the store is."""
    if URLS in handover:
        return StoreUrls(**msgspec.json.decode(handover[URLS], type=dict[str, str]))
    database_url = os.environ.get("DATABASE_URL")
    if not database_url:
        raise BrokenWorldError(
            "store_not_found", "this role runs without a supervisor", "set DATABASE_URL to the store of the platform"
        )
    return await external_urls(database_url)
