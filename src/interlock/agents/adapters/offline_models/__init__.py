"""Models without a language model, behind the chat API: `repair-search`, and for tests `adversary` and `replay`.

Keeps no state between calls; the transcript holds all there is to know.
"""

from interlock.agents.adapters.offline_models.server import TEST_MODELS, OfflineModelServer, model_names

__all__ = ["TEST_MODELS", "OfflineModelServer", "model_names"]
