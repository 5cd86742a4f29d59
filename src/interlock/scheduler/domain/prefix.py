"""Which prompts an engine still holds in its cache, as far as one can know from outside.

Holds no text: the edge sends chains of hashes, salted by organization, so that no tenant meets another's prefix.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

# One hash stands for 512 bytes of the rendered messages; a token is about four bytes of text.
BLOCK_TOKENS: Final = 128
_BLOCKS_UNKNOWN: Final = 4_096


class PrefixCache:
    """An LRU of chains of one engine, as large as its KV."""

    def __init__(self, kv_tokens: int | None) -> None:
        self._blocks_max = max(1, kv_tokens // BLOCK_TOKENS) if kv_tokens else _BLOCKS_UNKNOWN
        self._blocks: OrderedDict[tuple[str, str], None] = OrderedDict()

    def cached_tokens(self, model: str, chain: Sequence[str], input_tokens: int) -> int:
        """Return the prompt tokens that need no prefill; at least one token always does."""
        found = 0
        for block in chain:
            if (model, block) not in self._blocks:
                break
            found += 1
        return min(found * BLOCK_TOKENS, max(0, input_tokens - 1))

    def note(self, model: str, chain: Sequence[str]) -> None:
        """Remember a prompt that the engine was given. Its first blocks are the youngest: others share them."""
        for block in reversed(chain):
            self._blocks.pop((model, block), None)
            self._blocks[(model, block)] = None
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget all: the engine was started anew."""
        self._blocks.clear()
