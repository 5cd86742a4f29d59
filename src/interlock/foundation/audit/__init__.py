"""The audit chain: who did what, one chain of hashes per organization, signed now and then.

Entry points: `AuditLog.append(tx, entry)` in every change, `AuditReader.verify`, `Checkpointer.run`.
Invariants: no audit row, no change; a changed, missing or cut row is found and its seq named.
"""

from interlock.foundation.audit.checkpoints import (
    Checkpoint,
    CheckpointFile,
    CheckpointKey,
    CheckpointKeys,
    MalformedCheckpointError,
    parse_checkpoint,
)
from interlock.foundation.audit.config import AuditConfig
from interlock.foundation.audit.event import AuditEntry, AuditEvent
from interlock.foundation.audit.log import AuditLog, AuditStatistics, is_audit_failure
from interlock.foundation.audit.routes import audit_filter, event_of_call
from interlock.foundation.audit.service import AuditFilter, AuditReader, Checkpointer
from interlock.foundation.audit.verifier import Finding, FindingCode, Verdict

__all__ = [
    "AuditConfig", "AuditEntry", "AuditEvent", "AuditFilter", "AuditLog", "AuditReader", "AuditStatistics",
    "Checkpoint", "CheckpointFile", "CheckpointKey", "CheckpointKeys", "Checkpointer", "Finding", "FindingCode",
    "MalformedCheckpointError", "Verdict", "audit_filter", "event_of_call", "is_audit_failure", "parse_checkpoint",
]  # fmt: skip
