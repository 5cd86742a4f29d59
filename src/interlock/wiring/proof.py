"""What proves and operates the platform, put together: the audit chain and its pages.

Holds no logic; what changes something audits itself.
"""

from interlock.console import Console
from interlock.console.audit import AuditPages, audit_pages
from interlock.foundation.audit import AuditConfig, AuditReader, Checkpointer, CheckpointKeys
from interlock.foundation.audit.routes import routes as audit_routes
from interlock.foundation.control.route import Route
from interlock.foundation.store import Store
from interlock.wiring.ground import Ground


def audit_of(ground: Ground, store: Store, checkpointer: Checkpointer, page: Console) -> list[Route]:
    """Return what control serves of the audit chain, and its pages."""
    publics, log = CheckpointKeys([ground.checkpoint_key.public]), ground.audit()
    reader = AuditReader(store, publics, ground.checkpoint_file, ground.config.section(AuditConfig))
    pages = AuditPages(page.frame, log, reader, checkpointer, ground.clock, page.config)
    page.samples["audit_event"] = pages.newest
    return [*audit_routes(log, reader, checkpointer), *audit_pages(pages)]
