"""A clock that a test moves by hand. Sleeps with it are real."""

from interlock.foundation.clock import SystemClock


class HandClock(SystemClock):
    """The machine's clock, moved by hand: `forward` seconds are added to both of its faces."""

    def __init__(self):
        self.forward = 0.0
        self.stopped_at = None

    def stop(self):
        """Let nothing pass but what is put forward, however slow the machine is: the monotonic face stands still."""
        self.stopped_at = super().monotonic()

    def now_us(self):
        return super().now_us() + round(self.forward * 1e6)

    def monotonic(self):
        return (super().monotonic() if self.stopped_at is None else self.stopped_at) + self.forward
