"""Rows of tasks and their journals as values; every write of a leg carries its fence."""
