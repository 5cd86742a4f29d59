"""Long-running coding agents as durable, permissioned, cancelable, reversible tasks.

Runs nothing that a named rule did not allow.
"""
