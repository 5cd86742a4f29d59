"""A gate with its newest policy, as its rows hold it. Changes nothing."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from interlock.evals.domain.policy import Policy, read_policy
from interlock.evals.store import SQL, rows
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.store import Transaction


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate with its newest policy."""

    id: UUID
    name: str
    mode: str
    version: int
    policy: Policy
    policy_digest: str

    @classmethod
    def of(cls, row: Any) -> "Gate":
        """Return the gate in a row."""
        policy = read_policy(rows.decode(row["policy"]))
        return cls(row["id"], row["name"], row["mode"], row["version"], policy, row["policy_digest"])

    @property
    def named(self) -> str:
        """Its id."""
        return format_id("gate", self.id)


async def find_gate(tx: Transaction, named: str) -> Gate:
    """Return a gate by id or name. Raises `not_found`."""
    try:
        gate_id = parse_id("gate", named)
    except MalformedIdError:
        gate_id = None
    row = await tx.fetchrow(SQL.get_gate, tx.scope.organization_id, gate_id, named)
    if row is None:
        raise InterlockError("not_found")
    return Gate.of(row)
