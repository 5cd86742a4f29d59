"""The chain of hashes by which a scheduler knows which engine has read the beginning of a prompt.

Salted by organization: the chains of two tenants never meet, whatever they write.
"""

from hashlib import blake2b
from typing import Final
from uuid import UUID

BLOCK_BYTES: Final = 512
BLOCKS_MAX: Final = 64
_DIGEST_BYTES: Final = 8


def prefix_chain(organization_id: UUID, messages: bytes) -> tuple[str, ...]:
    """Return one hash for each whole block of the rendered messages, each over the one before it."""
    chain, last = [], b""
    for at in range(0, min(len(messages) // BLOCK_BYTES, BLOCKS_MAX) * BLOCK_BYTES, BLOCK_BYTES):
        block = messages[at : at + BLOCK_BYTES]
        last = blake2b(last + organization_id.bytes + block, digest_size=_DIGEST_BYTES).digest()
        chain.append(last.hex())
    return tuple(chain)
