"""Meaning as numbers: what an embedder gives, and the 1-bit code of a vector.

Runs no model; `adapters/minilm` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final, Protocol

# The setting that leaves words alone, and what a profile names then.
NO_EMBEDDER: Final = "none"


class EmbedderUnavailableError(Exception):
    """No vector now: the model cannot be run, or too many texts wait already."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector of length 1; bind it as `$n::real[]::halfvec(384)`, once a statement."""

    vector: tuple[float, ...]

    @property
    def code(self) -> bytes:
        """The signs, most significant bit first: what `bit(384)` is bound as."""
        bits = 0
        for value in self.vector:
            bits = bits << 1 | (value > 0)
        return bits.to_bytes(len(self.vector) // 8, "big")

    def cosine(self, other: "Embedding") -> float:
        """Return how near two vectors of length 1 are, -1 to 1."""
        nearness: float = sum(map(mul, self.vector, other.vector))
        return nearness


class Embedder(Protocol):
    """Texts to vectors. The vector of a text depends on the text alone, never on what else is in the call."""

    @property
    def id(self) -> str:
        """Name, digest and dimension: vectors of two embedders never meet."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return a vector for each text, in order. Raises `EmbedderUnavailableError`."""
        ...
