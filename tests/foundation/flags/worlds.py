"""Flags and switches over a real store: the same world as identity's, and a second process beside it."""

from interlock.foundation.flags import ChangeFeed, FlagsConfig, KillSwitches
from tests.foundation.identity.worlds import PEPPER


class Process:
    """Another process of the platform: its own memory, its own feed, its own name."""

    def __init__(self, store, clock, name, folder=None):
        self.switches = KillSwitches(store, clock, folder, PEPPER)
        self.feed = ChangeFeed(store, clock, FlagsConfig(), process=name)
        self.feed.subscribe("kills", self.switches.reload)
