"""How many tokens a request will take, before any model has counted them.

Counts no tokens itself; it learns the ratio of tokens to bytes from what models reported.
"""

import math
from typing import Final
from uuid import UUID

from interlock.gateway.domain.envelope import IMAGE_TOKENS, Dialect, Envelope
from interlock.gateway.domain.limits import Ask

_RATIO_START: Final = 0.25
_RATIO_MIN: Final = 0.05
_RATIO_MAX: Final = 1.0
_WITHOUT_OUTPUT: Final = frozenset({Dialect.EMBEDDINGS, Dialect.COUNT})
_ALPHA: Final = 0.05
_RATIOS_MAX: Final = 100_000
# The number of no workspace.
_NOWHERE: Final = -1


class Estimator:
    """Ratios of tokens to bytes by alias and workspace, each moved by what was observed."""

    def __init__(self, output_tokens_default: int) -> None:
        self._output_tokens_default = output_tokens_default
        self._ratios: dict[tuple[str, int], float] = {}

    def ask(self, envelope: Envelope, workspace_id: UUID | None) -> Ask:
        """Return what to reserve for a request."""
        # Numbers of ids are hashed faster than ids.
        place = (envelope.model, _NOWHERE if workspace_id is None else workspace_id.int)
        ratio = self._ratios.get(place, _RATIO_START)
        text_tokens = math.ceil(envelope.text_bytes * ratio)
        input_tokens = text_tokens + envelope.images * IMAGE_TOKENS
        if envelope.dialect in _WITHOUT_OUTPUT:
            return Ask(input_tokens, 0, 1)
        output = envelope.max_tokens or self._output_tokens_default
        return Ask(input_tokens, output * envelope.n, envelope.n)

    def observe(self, envelope: Envelope, workspace_id: UUID | None, input_tokens: int) -> None:
        """Learn from the input tokens that a model reported."""
        text_tokens = input_tokens - envelope.images * IMAGE_TOKENS
        if envelope.text_bytes <= 0 or text_tokens <= 0:
            return
        place = (envelope.model, _NOWHERE if workspace_id is None else workspace_id.int)
        old = self._ratios.get(place)
        if old is None:
            old = _RATIO_START
            if len(self._ratios) >= _RATIOS_MAX:
                self._ratios.clear()
        new = old + _ALPHA * (text_tokens / envelope.text_bytes - old)
        self._ratios[place] = min(_RATIO_MAX, max(_RATIO_MIN, new))
