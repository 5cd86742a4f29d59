"""Consistency tokens of retrieval: proof of a change that a later search can ask for.

Decides nothing; the form is that of `foundation.identity.domain.tokens`.
"""

from typing import Final
from uuid import UUID

from interlock.foundation.identity.domain import tokens

TOKEN_HEADER: Final = "x-interlock-consistency-token"  # noqa: S105 - the name of a header


class TokenIssuer:
    """Signs the epochs of writes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, organization_id: UUID, epoch: int) -> str:
        """Return the token of an epoch."""
        return tokens.issue(organization_id, epoch, self._key)
