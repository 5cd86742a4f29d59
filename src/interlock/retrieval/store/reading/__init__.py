"""Statements that read for somebody: every one holds the access in its own conditions. Writes audit rows only."""
