"""The kill switches of this process: those of the store, and those of the local folder that work without it.

An unknown state keeps the last known; nothing in here turns a switch off that it cannot see.
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.flags.config import FlagsConfig
from interlock.foundation.flags.domain.kills import Kill, KillBoard
from interlock.foundation.flags.store import load_kills
from interlock.foundation.store import Store

_MARK: Final = b"interlock-local-kill-v1\x00"
_FILE_BYTES_MAX: Final = 4_096
_SUFFIX: Final = ".kill"
_log = structlog.get_logger("interlock.flags")


class KillSwitches:
    """Answers whether something is stopped, from memory."""

    def __init__(
        self, store: Store, clock: Clock, folder: Path | None, key: bytes, config: FlagsConfig | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._folder = folder
        self._key = key
        self._config = config or FlagsConfig()
        self._stored: tuple[Kill, ...] = ()
        self._local: tuple[Kill, ...] = ()
        self._files: dict[str, Kill] = {}
        self._warned: set[str] = set()
        self._board = KillBoard()
        # Everything that is on; asked several times a request.
        self.kills: tuple[Kill, ...] = ()
        self._listeners: list[Callable[[], None]] = []

    def check(self, targets: Iterable[tuple[str, str]], organization_id: UUID | None = None) -> Kill | None:
        """Return the first switch that stops one of `(scope, target)`, or None."""
        return self._board.check(targets, organization_id)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back after the set of switches changed."""
        self._listeners.append(callback)

    def statistics(self) -> dict[str, int]:
        """Return how many switches of each origin are on."""
        return {"stored": len(self._stored), "local": len(self._local)}

    async def reload(self) -> None:
        """Read the switches of the store anew; a failure leaves what is known."""
        self._replace(await load_kills(self._store, self._config.switches_max), self._local)

    def to_bytes(self) -> bytes:
        """Return the stored switches for the start state."""
        return msgspec.msgpack.encode(self._stored)

    def load(self, content: bytes) -> None:
        """Take the stored switches of a start state. Raises `msgspec.DecodeError`."""
        self._replace(msgspec.msgpack.decode(content, type=tuple[Kill, ...]), self._local)

    async def run(self) -> None:
        """Follow the local folder until cancelled."""
        while True:
            self.look_at_folder()
            await self._clock.sleep(until_tick(self._clock, self._config.local_poll_s))

    def look_at_folder(self) -> None:
        """Take the signed files of the folder.

        Only a file that is gone lifts its switch. One that was valid and cannot be read any more stays on, and so do
        all of them while the folder itself cannot be read; a file that never had a valid signature is ignored.
        """
        if self._folder is None:
            return
        try:
            names = sorted(each.name for each in os.scandir(self._folder) if each.name.endswith(_SUFFIX))
        except OSError as error:
            _log.debug("local_kills_unreadable", error=str(error), kept=len(self._files))
            return
        found = {name: kill for name in names if (kill := self._read(self._folder / name)) is not None}
        if found != self._files:
            self._files = found
            self._replace(self._stored, tuple(found.values()))

    def _read(self, file: Path) -> Kill | None:
        known = self._files.get(file.name)
        try:
            with file.open("rb") as opened:
                return open_local(opened.read(_FILE_BYTES_MAX), self._key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if file.name not in self._warned:
                self._warned.add(file.name)
                _log.warning("local_kill_unreadable", file=file.name, error=str(error), is_kept=known is not None)
            return known

    def _replace(self, stored: tuple[Kill, ...], local: tuple[Kill, ...]) -> None:
        is_new = (stored, local) != (self._stored, self._local)
        self._stored, self._local = stored, local
        if is_new:
            self._board = KillBoard((*local, *stored))
            self.kills = self._board.kills
            for callback in self._listeners:
                callback()


def seal_local(kill: Kill, key: bytes) -> bytes:
    """Return the content of a local kill file: a signature line, then the switch."""
    body = msgspec.json.encode(kill)
    return hmac.new(key, _MARK + body, hashlib.sha256).hexdigest().encode() + b"\n" + body


def open_local(content: bytes, key: bytes) -> Kill:
    """Return the switch of a local file. Raises `ValueError` when the signature or the form is wrong."""
    signature, _, body = content.partition(b"\n")
    expected = hmac.new(key, _MARK + body, hashlib.sha256).hexdigest().encode()
    if not hmac.compare_digest(signature, expected):
        raise ValueError("the signature does not match")
    try:
        return msgspec.json.decode(body, type=Kill)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a kill switch: {error}") from error
