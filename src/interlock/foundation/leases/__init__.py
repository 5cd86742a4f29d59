"""Leased work: due rows claimed fairly by tenant, fenced, renewed, and taken back from the dead.

Entry points: `LeaseSpec` describes a table of work, `LeaseTable` runs its statements, `LeaseWorker` holds leases and
runs the work. Invariants: a row has at most one holder whose writes are accepted; a write without the current fence
changes nothing; a tenant never has more than `running_max` rows in work.
"""

from interlock.foundation.leases.spec import Fence, Lease, LeaseLostError, LeaseSpec, LeaseStore
from interlock.foundation.leases.table import LeaseTable
from interlock.foundation.leases.worker import LeaseWorker

__all__ = ["Fence", "Lease", "LeaseLostError", "LeaseSpec", "LeaseStore", "LeaseTable", "LeaseWorker"]
