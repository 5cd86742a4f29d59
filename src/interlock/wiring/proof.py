"""What proves and operates the platform, put together: the audit chain, flags, the platform itself, and their pages.

Holds no logic; what changes something audits itself.
"""

import asyncio
import os
from typing import Final

from interlock.console import Console
from interlock.console.audit import AuditPages, audit_pages
from interlock.console.flags import FlagPages, flag_pages
from interlock.console.platform import PlatformPages, PlatformParts, platform_pages
from interlock.foundation.audit import AuditConfig, AuditReader, Checkpointer, CheckpointKeys
from interlock.foundation.audit.routes import routes as audit_routes
from interlock.foundation.control.route import Route
from interlock.foundation.flags import FlagService, KillService
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.secrets import SecretService
from interlock.foundation.store import Store
from interlock.foundation.supervisor import RoleLink
from interlock.foundation.supervisor.collector_check import collector_finding
from interlock.foundation.supervisor.doctor import Finding, machine_findings
from interlock.foundation.supervisor.store_checks import store_findings
from interlock.foundation.telemetry import OtlpConfig
from interlock.wiring.ground import Ground

# What `up` listens on where nobody says otherwise.
_PORT: Final = 8080


def audit_of(ground: Ground, store: Store, checkpointer: Checkpointer, page: Console) -> list[Route]:
    """Return what control serves of the audit chain, and its pages."""
    publics, log = CheckpointKeys([ground.checkpoint_key.public]), ground.audit()
    reader = AuditReader(store, publics, ground.checkpoint_file, ground.config.section(AuditConfig))
    pages = AuditPages(page.frame, log, reader, checkpointer, ground.clock, page.config)
    page.samples["audit_event"] = pages.newest
    return [*audit_routes(log, reader, checkpointer), *audit_pages(pages)]


def flags_of(ground: Ground, kills: KillService, flags: FlagService, page: Console) -> list[Route]:
    """Return what control serves of switches and flags, and the page of flags."""
    return [*flag_routes(kills, flags), *flag_pages(FlagPages(page.frame, flags, ground.clock, page.config))]


def platform_of(ground: Ground, link: RoleLink, secrets: SecretService, page: Console) -> list[Route]:
    """Return the page of the platform."""
    options = ground.options

    async def doctor() -> list[Finding]:
        looked = machine_findings(ground.directory, options.host, options.port or _PORT, ground.clock)
        found = await asyncio.to_thread(lambda: [*looked])
        collector = await asyncio.to_thread(collector_finding, ground.config.section(OtlpConfig))
        return [*found, *await store_findings(ground.directory, ground.clock, os.environ), collector]

    parts = PlatformParts(
        directory=ground.directory,
        settings=ground.config.effective,
        state=lambda: link.state,
        metrics=link.metrics,
        restart=link.restart,
        doctor=doctor,
        hide=ground.redactor.text,
    )
    return platform_pages(PlatformPages(page.frame, parts, secrets, ground.audit(), ground.clock))
