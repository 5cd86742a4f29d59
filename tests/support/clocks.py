"""A clock that a test moves by hand. Sleeps with it are real."""

from interlock.foundation.clock import SystemClock


class HandClock(SystemClock):
    """The machine's clock, moved by hand: `forward` seconds are added to both of its faces."""

    def __init__(self):
        self.forward = 0.0
        self.stopped = None

    def stop(self):
        """Let nothing pass but what is put forward, however slow the machine is."""
        self.stopped = super().now_us(), super().monotonic()

    def now_us(self):
        return (super().now_us() if self.stopped is None else self.stopped[0]) + round(self.forward * 1e6)

    def monotonic(self):
        return (super().monotonic() if self.stopped is None else self.stopped[1]) + self.forward
