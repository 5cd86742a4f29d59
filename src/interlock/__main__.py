"""`python -m interlock`, the form in which the supervisor starts its roles. Holds no logic."""

from interlock.cli import main

main(prog_name="interlock")
