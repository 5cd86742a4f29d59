"""The embedder of this machine: all-MiniLM-L6-v2 with int8 weights, run here. Downloads nothing."""

from interlock.retrieval.adapters.minilm.embedder import MODEL_SHA256, LocalEmbedder, find_model

__all__ = ["MODEL_SHA256", "LocalEmbedder", "find_model"]
