"""Rows of retrieval to its types and back: `ingest` writes, `search` reads. Opens no transactions; services do."""
