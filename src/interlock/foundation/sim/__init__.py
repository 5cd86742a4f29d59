"""Runs a core under virtual time, seeded chance and a hostile environment.

Simulates what lies around a core (time, network, crashes), never the core itself: the code under test is the
code that ships.
"""

from interlock.foundation.sim.loop import DeadlockError, SimClock, SimDice, SimLoop, simulate
from interlock.foundation.sim.nemesis import CrashedError, Nemesis, SimProcess
from interlock.foundation.sim.net import LostError, SimNet

__all__ = [
    "CrashedError",
    "DeadlockError",
    "LostError",
    "Nemesis",
    "SimClock",
    "SimDice",
    "SimLoop",
    "SimNet",
    "SimProcess",
    "simulate",
]
