"""The console: server-rendered pages over the systems' public names.

Entry point: `routes`, HTML routes for the control process. Invariants: nothing on a page comes from another
host, nothing runs inline, untrusted text reaches a page as text only, and every page works read-only without JavaScript.
"""

from interlock.console.routes import Console, routes

__all__ = ["Console", "routes"]
