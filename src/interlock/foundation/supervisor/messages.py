"""What a role and its supervisor say to each other over their socket pair, and how it is framed.

Does not act on anything: the two ends are `link.py` and `process.py`.
"""

import asyncio
from typing import Final

import msgspec

FRAME_BYTES_MAX: Final = 16 << 20
_LENGTH_BYTES: Final = 4


class Reason(msgspec.Struct, frozen=True):
    """Why the platform is not ready: the check that fails and what it saw."""

    check: str
    detail: str


class PlatformState(msgspec.Struct, frozen=True):
    """The answer of `/readyz`, as the supervisor last saw it."""

    ready: bool = False
    degraded: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The role's self-check passed; it serves."""


class Heartbeat(msgspec.Struct, tag="heartbeat", frozen=True):
    """The role's loop turns. `degraded` is what the role itself finds missing; `metrics` is empty or a snapshot."""

    metrics: bytes = b""
    degraded: tuple[str, ...] = ()


class MetricsWanted(msgspec.Struct, tag="metrics_wanted", frozen=True):
    """The role asks for the metrics of all processes."""

    number: int


class RestartWanted(msgspec.Struct, tag="restart_wanted", frozen=True):
    """Control asks for a process, by its tag such as `edge-0`, to be drained and started anew."""

    process: str


class MetricsText(msgspec.Struct, tag="metrics_text", frozen=True):
    """The merged metrics, in OpenMetrics form."""

    number: int
    text: str


class SnapshotWanted(msgspec.Struct, tag="snapshot_wanted", frozen=True):
    """Somebody reads the metrics: the role's next heartbeat comes at once and carries them."""


class StateChanged(msgspec.Struct, tag="state", frozen=True):
    """The platform's state, sent on a change and each second."""

    state: PlatformState


class Handover(msgspec.Struct, tag="handover", frozen=True):
    """Private values that must not pass through arguments, environment or files. A role begins when it has them."""

    items: dict[str, bytes]


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """Finish what runs, accept nothing new, end."""


FromRole = Ready | Heartbeat | MetricsWanted | RestartWanted
ToRole = Handover | StateChanged | MetricsText | SnapshotWanted | Drain

_encoder = msgspec.msgpack.Encoder()
from_role_decoder: msgspec.msgpack.Decoder[FromRole] = msgspec.msgpack.Decoder(FromRole)
to_role_decoder: msgspec.msgpack.Decoder[ToRole] = msgspec.msgpack.Decoder(ToRole)


def encode(message: FromRole | ToRole) -> bytes:
    """Return a message with its four-byte length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next message's bytes, or None when the other end is gone."""
    try:
        head = await reader.readexactly(_LENGTH_BYTES)
        size = int.from_bytes(head, "big")
        if size > FRAME_BYTES_MAX:
            return None
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
