"""The console: server-rendered pages over the systems' public names.

Entry points: `routes`, HTML routes for the control process, and `Console`, what they need. Invariants: nothing on a
page comes from another host, nothing runs inline, untrusted text reaches a page as text only, and every page works
read-only without JavaScript.
"""

from interlock.console.config import ConsoleConfig
from interlock.console.routes import Console, routes

__all__ = ["Console", "ConsoleConfig", "routes"]
