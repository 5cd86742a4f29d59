"""The bytes of a spool: a header of length, checksum, position and kind, then the payload.

Does no I/O; ring and segment files lay these frames into their own space.
"""

import struct
from enum import IntEnum
from typing import Final
from zlib import crc32

import msgspec

from interlock.foundation.telemetry.records import Addendum, Note, Opened, RequestRecord

# payload length, crc-32, position, kind; little-endian, 24 bytes.
HEADER: Final = struct.Struct("<IIQBxxxxxxx")
HEADER_BYTES: Final = HEADER.size
ALIGNMENT: Final = 8


class Kind(IntEnum):
    """What a frame holds. `BEGUN` is the story so far of a request, `STORY` that of one that has ended.

    `OPEN`, `NOTE` and `CLOSE` are how older rings have them.
    """

    PAD = 1
    OPEN = 2
    NOTE = 3
    CLOSE = 4
    ADDENDUM = 5
    FORGET = 6
    STORY = 7
    BEGUN = 8


def frame_bytes(payload_bytes: int) -> int:
    """Return what a payload of this length takes, header and alignment included."""
    return (HEADER_BYTES + payload_bytes + ALIGNMENT - 1) & -ALIGNMENT


def checksum(position: int, kind: int, payload: bytes) -> int:
    """Return the CRC-32 over payload, position, kind and length: a frame moved or cut does not verify."""
    return crc32(payload, (position ^ kind << 24 ^ len(payload) << 8) & 0xFFFFFFFF)


def parse(buffer: bytes | memoryview, offset: int, position: int) -> tuple[int, bytes] | None:
    """Return kind and payload of the frame that claims `position` at `offset`, or None where it does not verify."""
    if offset + HEADER_BYTES > len(buffer):
        return None
    length, crc, claimed, kind = HEADER.unpack_from(buffer, offset)
    end = offset + HEADER_BYTES + length
    if claimed != position or end > len(buffer):
        return None
    payload = bytes(buffer[offset + HEADER_BYTES : end])
    return (kind, payload) if checksum(position, kind, payload) == crc else None


_ENCODER: Final = msgspec.msgpack.Encoder(uuid_format="bytes")
encode: Final = _ENCODER.encode
decode_record: Final = msgspec.msgpack.Decoder(RequestRecord).decode
decode_addendum: Final = msgspec.msgpack.Decoder(Addendum).decode
decode_opened: Final = msgspec.msgpack.Decoder(Opened).decode
decode_note: Final = msgspec.msgpack.Decoder(Note).decode
