"""Relevance of search on a collection with judgements, measured through the public API. Knows no access rule."""
