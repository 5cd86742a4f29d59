"""Tasks on a running platform, over its public API alone."""
