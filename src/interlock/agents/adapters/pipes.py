"""The end of a pipe that a sandbox writes to, read as it fills.

No transport of the event loop owns it: uvloop closes a descriptor that Python closes once more when its file object
goes, and by then the number may be another's. Nothing is read ahead, so a program that says too much waits for us.
"""

import asyncio
import os


class Pipe:
    """Owns one descriptor from here on."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    async def read(self, bytes_max: int) -> bytes:
        """Return what there is, empty at the end; one reader at a time."""
        while self._descriptor >= 0:
            try:
                return os.read(self._descriptor, bytes_max)
            except BlockingIOError:
                await self._filled()
        return b""

    async def line(self) -> bytes:
        """Return one line with its end, less at the end of all."""
        found = b""
        while not found.endswith(b"\n") and (piece := await self.read(1)):
            found += piece
        return found

    def close(self) -> None:
        """Let go of it; the second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _filled(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._descriptor, _told, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


def _told(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
