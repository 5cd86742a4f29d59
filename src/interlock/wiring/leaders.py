"""Where the schedulers of this machine are, and which of them this process is.

Leads nothing; `scheduling.py` does.
"""

from pathlib import Path

from interlock.foundation.lives import mark
from interlock.scheduler.domain.leading import Candidate
from interlock.wiring.ground import Ground


def scheduler_sockets(ground: Ground) -> tuple[Path, ...]:
    """Return where the schedulers of this machine listen; the first has no number."""
    return tuple(scheduler_socket(ground, index) for index in range(ground.options.schedulers))


def scheduler_socket(ground: Ground, index: int) -> Path:
    """Return where one scheduler of this machine listens."""
    return ground.directory.socket("scheduler" if index == 0 else f"scheduler-{index}")


def candidate(ground: Ground) -> Candidate:
    """Return this life of this scheduler; edges of other machines reach it where `--listen` says."""
    seat, address = f"{ground.name}@{ground.seat}", f"unix:{scheduler_socket(ground, ground.index)}:"
    if ground.listen is not None:
        host, port = ground.listen
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return Candidate(f"{seat}/{mark()}/{ground.ids.new().hex[-12:]}", seat, address)
