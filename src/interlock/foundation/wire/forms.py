"""Puts the compiled forms of the server's usual case in the place of those in Python, where they were built.

Holds no form itself: `_native_server` has the one, `connection`, `exchange` and `server` have the other.
"""

from interlock.foundation.native import load
from interlock.foundation.wire import connection, exchange, head, message, server

_native = load("interlock.foundation.wire._native_server")


def equip() -> None:
    """Put them in their places; to be called once, before any connection is made."""
    if _native is not None:
        modules = (connection, exchange, head, message, server)
        _native.equip({each.__name__.rpartition(".")[2]: each for each in modules})
