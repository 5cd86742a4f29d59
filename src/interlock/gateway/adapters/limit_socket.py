"""The machine's broker for every worker of it: one edge holds it, the others reach it over a unix socket.

Decides nothing. Who holds the lock on the socket's neighbour is the broker; it ends with its process, and another takes
over.
"""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory
from interlock.foundation.supervisor import write_private
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain.buckets import Bucket
from interlock.gateway.domain.leasing import Give, LeaseMode, LimitStore, Take, Taken, Verdict, returned
from interlock.gateway.service.broker import Broker
from interlock.gateway.service.reserve import Adopted

log = structlog.get_logger("interlock.gateway")
_ELECTION_S: Final = 0.05
_FRAME_BYTES_MAX: Final = 1 << 20
_LENGTH_BYTES: Final = 4
_UNAVAILABLE: Final = Taken(Verdict.UNAVAILABLE, LeaseMode.SHARE)


class _Hello(msgspec.Struct, array_like=True, tag=0):
    worker: UUID
    slots: list[tuple[Bucket, int]]


class _Gives(msgspec.Struct, array_like=True, tag=1):
    gives: list[Give]


class _Ask(msgspec.Struct, array_like=True, tag=2):
    number: int
    take: Take


class _Answer(msgspec.Struct, array_like=True):
    number: int
    taken: Taken


_Message = _Hello | _Gives | _Ask
_encode: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_read_message: Final = msgspec.msgpack.Decoder(_Message).decode
_read_answer: Final = msgspec.msgpack.Decoder(_Answer).decode


class MachineLimits:
    """`LimitBroker` of one worker: the machine's broker, in this process or behind the socket."""

    def __init__(self, store: LimitStore, path: Path, *, clock: Clock, ids: IdFactory, config: LimitsConfig) -> None:
        self._store = store
        self._path = path
        self.worker = ids.new()
        self._clock = clock
        self._ids = ids
        self._config = config
        self._remote: _Remote | None = None
        self._is_there = asyncio.Event()
        self.broker: Broker | None = None
        self.adopted: Adopted = lambda: ()

    async def take(self, worker: UUID, take: Take) -> Taken:
        """Decide one request; without a broker, such as between two of them, wait for one."""
        try:
            async with asyncio.timeout(self._config.away_s):
                await self._is_there.wait()
        except TimeoutError:
            return _UNAVAILABLE
        if self.broker is not None:
            return await self.broker.take(worker, take)
        return _UNAVAILABLE if self._remote is None else await self._remote.take(take)

    def give(self, worker: UUID, gives: Sequence[Give]) -> None:
        """Note what a worker settled, used, or gives back; what no broker hears stays spent."""
        if self.broker is not None:
            self.broker.give(worker, gives)
        elif self._remote is not None:
            self._remote.send(_Gives(list(gives)))

    def adopt(self, worker: UUID, slots: Sequence[tuple[Bucket, int]]) -> None:
        """Note the slots that a worker holds."""
        if self.broker is not None:
            self.broker.adopt(worker, slots)
        elif self._remote is not None:
            self._remote.send(_Hello(worker, list(slots)))

    async def run(self) -> None:
        """Be the broker or be connected to it, until cancelled."""
        while True:
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _is_locked(lock):
                    await self._serve()
                else:
                    await self._follow()
            finally:
                os.close(lock)
                self._is_there.clear()
            await self._clock.sleep(_ELECTION_S)

    async def flush(self) -> None:
        """Have told, at a drain, what is known here."""
        if self.broker is not None:
            await self.broker.flush()
        elif self._remote is not None:
            await self._remote.drain()

    async def _serve(self) -> None:
        broker = Broker(self._store, self._clock, self._ids, self._config, self._machine())
        self._path.unlink(missing_ok=True)
        connections = _Connections(broker)
        server = await asyncio.start_unix_server(connections.serve, self._path)
        self._path.chmod(0o600)
        self.broker = broker
        try:
            broker.adopt(self.worker, self.adopted())
            self._is_there.set()
            await broker.run()
        finally:
            self.broker = None
            server.close()
            connections.close()
            self._path.unlink(missing_ok=True)

    async def _follow(self) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            return
        self._remote = remote = _Remote(reader, writer)
        try:
            self.adopt(self.worker, self.adopted())
            self._is_there.set()
            await remote.run()
        finally:
            self._remote = None
            remote.close()

    def _machine(self) -> UUID:
        """Return the machine's name: that of its data folder, whichever of its edges is the broker."""
        file = self._path.with_suffix(".id")
        with suppress(OSError, ValueError):
            return UUID(file.read_text(encoding="ascii"))
        made = self._ids.new()
        write_private(file, str(made).encode("ascii"))
        return made


class _Remote:
    """The broker of another process, as this worker reaches it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._asks: dict[int, tuple[Take, asyncio.Future[Taken]]] = {}

    async def take(self, take: Take) -> Taken:
        self._number += 1
        number = self._number
        answered: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._asks[number] = (take, answered)
        self.send(_Ask(number, take))
        try:
            return await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled():
                self._give_back(take, answered.result())
            raise

    def send(self, message: _Message) -> None:
        payload = _encode(message)
        self._writer.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    async def run(self) -> None:
        """Hand out answers until the broker is gone."""
        with suppress(asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            while True:
                answer = _read_answer(await _frame(self._reader))
                take, answered = self._asks.pop(answer.number)
                if answered.done():
                    self._give_back(take, answer.taken)
                else:
                    answered.set_result(answer.taken)

    async def drain(self) -> None:
        with suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        for _, answered in self._asks.values():
            if not answered.done():
                answered.set_result(_UNAVAILABLE)
        self._writer.close()

    def _give_back(self, take: Take, taken: Taken) -> None:
        gives = returned(take, taken)
        if gives:
            self.send(_Gives(gives))


class _Connections:
    """The workers at this broker; one whose connection ends is gone."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        worker: UUID | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    message = _read_message(await _frame(reader))
                    if isinstance(message, _Hello):
                        worker = message.worker
                        self._broker.adopt(worker, message.slots)
                    elif worker is None:
                        break
                    elif isinstance(message, _Gives):
                        self._broker.give(worker, message.gives)
                    else:
                        group.create_task(self._answer(worker, message, writer))
        except* (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError) as gone:
            log.debug("limits_worker_gone", error=str(gone.exceptions[0]))
        finally:
            self._writers.discard(writer)
            if worker is not None:
                self._broker.lose(worker)
            writer.close()

    async def _answer(self, worker: UUID, message: _Ask, writer: asyncio.StreamWriter) -> None:
        taken = await self._broker.take(worker, message.take)
        payload = _encode(_Answer(message.number, taken))
        writer.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > _FRAME_BYTES_MAX:
        raise ConnectionError("a frame is too long")
    return await reader.readexactly(length)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
