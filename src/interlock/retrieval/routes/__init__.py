"""HTTP of retrieval. Parses and renders; decides nothing."""
