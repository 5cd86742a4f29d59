"""Rows of the gateway to its types and back; routes and arms are read from their own modules.

Opens no transactions but the one that fills an edge's memory; services and loops do.
"""

from interlock.gateway.store.directory import load_directory
from interlock.gateway.store.limits import all_limits, delete_limit, fills, limits_of, list_limits, put_limit

__all__ = [
    "all_limits",
    "delete_limit",
    "fills",
    "limits_of",
    "list_limits",
    "load_directory",
    "put_limit",
]
