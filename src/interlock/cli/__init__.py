"""The command line: one file a command group, which parses, calls, prints and exits.

Entry point: `main`. Invariants: exit 0 done, 1 refused or failed, 2 usage; errors are one line on standard error.
A command is imported when it is used, so that `interlock --version` does not load six systems.
"""

from interlock.cli.root import main

__all__ = ["main"]
