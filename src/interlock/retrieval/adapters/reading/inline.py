"""Reads texts of our own where they are: for what is known to be short and harmless, no process is started.

Nothing that came from outside may be read by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interlock.retrieval.adapters.reading.texts import ReadDocument, ReadLimits, ReadWanted, read
from interlock.retrieval.config import RetrievalConfig


@dataclass(frozen=True, slots=True)
class InlineReading:
    """Stands where the pool of reading processes stands."""

    config: RetrievalConfig

    async def read(self, wanted: Sequence[ReadWanted]) -> list[ReadDocument | str]:
        """Read documents, in order."""
        config = self.config
        limits = ReadLimits(config.text_chars_max, config.chunk_chars, config.chunk_chars_max)
        return [read(each, limits) for each in wanted]
