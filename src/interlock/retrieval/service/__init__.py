"""Use cases of retrieval: what goes into the index, and what may be read from it. Speaks no HTTP."""
