"""`python -m interlock`, the form in which the supervisor starts its roles. Holds no logic."""

from interlock.cli import main

# A process that reads documents imports this module under another name and must not start a role.
if __name__ == "__main__":
    main(prog_name="interlock")
