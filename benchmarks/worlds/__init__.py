"""Worlds that benchmarks measure in. Measures nothing itself."""
