"""The warm process: it loads the code of all roles once, and each role is a fork of it that starts in no time.

Single-threaded by rule, it opens nothing and decides nothing: it forks what is asked for and says how that ended.
"""

import asyncio
import gc
import importlib
import io
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Final, Self

import msgspec
from setproctitle import setproctitle

from interlock.foundation.supervisor.children import Child, Commands, Forked, RoleSpec, close_all, named_descriptors
from interlock.foundation.supervisor.link import IS_FORKED

MESSAGE_BYTES_MAX: Final = 256 << 10
_DESCRIPTORS_MAX: Final = 3
# What a role runs, by its name and number; the exit status is returned.
Main = Callable[[str, int], int]


class Wanted(msgspec.Struct, tag="wanted", frozen=True):
    """Fork a role. With it come its link, the write end of its output, and the listening socket if it wants that."""

    number: int
    name: str
    index: int
    env: dict[str, str]


class Started(msgspec.Struct, tag="started", frozen=True):
    """The fork lives; its pidfd comes with this."""

    number: int
    pid: int


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The system would not fork."""

    number: int
    errno: int


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """A fork is dead; `status` is negative for a signal."""

    pid: int
    status: int


_encode = msgspec.msgpack.Encoder().encode
_wanted = msgspec.msgpack.Decoder(Wanted)
_told = msgspec.msgpack.Decoder(Started | Refused | Ended)


class WarmProcess:
    """The supervisor's end. When the warm process is gone, roles are started by their command line, more slowly."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._commands = Commands()
        self._number = 0
        self._is_watched = False
        self._is_gone = False
        self._asked: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._children: dict[int, Forked] = {}
        # Ends that were told before their starts were dealt with.
        self._early: dict[int, int] = {}

    @classmethod
    def start(cls, main: Main, preload: Sequence[str]) -> Self | None:
        """Fork the warm process off, which loads the modules; to be called before there is a thread or a loop.

        Returns None where forks of a loaded process or pidfds are not to be had.
        """
        if not hasattr(os, "pidfd_open"):
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            _serve(theirs, main, preload)
        theirs.close()
        ours.setblocking(False)
        return cls(ours)

    async def spawn(self, spec: RoleSpec, env: Mapping[str, str], link: socket.socket, listener: int | None) -> Child:
        """Fork the role. Raises `OSError` when the system would not fork."""
        if not self._is_gone:
            with suppress(ConnectionError):
                return await self._fork(spec, env, link, listener)
        return await self._commands.spawn(spec, env, link, listener)

    async def _fork(self, spec: RoleSpec, env: Mapping[str, str], link: socket.socket, listener: int | None) -> Child:
        loop = asyncio.get_running_loop()
        if not self._is_watched:
            self._is_watched = True
            loop.add_reader(self._connection, self._hear)
        self._number = number = self._number + 1
        answer = self._asked[number] = loop.create_future()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            message = _encode(Wanted(number, spec.name, spec.index, dict(env)))
            passed = [link.fileno(), write_end] + ([] if listener is None else [listener])
            socket.send_fds(self._connection, [message], passed)
            pid, pidfd = await answer
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
            self._asked.pop(number, None)
        child = await Forked.of(pid, pidfd, read_end)
        if pid in self._early or self._is_gone:
            child.ended(self._early.pop(pid, None))
        else:
            self._children[pid] = child
        return child

    def _hear(self) -> None:
        try:
            content, descriptors, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            content, descriptors = b"", []
        if not content:
            self._gone()
            return
        match _told.decode(content):
            case Started(number=number, pid=pid):
                self._answer(number, (pid, descriptors[0]))
            case Refused(number=number, errno=errno):
                self._answer(number, OSError(errno, os.strerror(errno)))
            case Ended(pid=pid, status=status):
                child = self._children.pop(pid, None)
                if child is not None:
                    child.ended(status)
                else:
                    self._early[pid] = status

    def _answer(self, number: int, answer: tuple[int, int] | OSError) -> None:
        asked = self._asked.get(number)
        if asked is None or asked.done():
            return
        if isinstance(answer, OSError):
            asked.set_exception(answer)
        else:
            asked.set_result(answer)

    def _gone(self) -> None:
        self._is_gone = True
        asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        for number in list(self._asked):
            self._answer(number, ConnectionResetError("the warm process is gone"))
        for child in self._children.values():
            child.ended(None)
        self._children.clear()


def _serve(connection: socket.socket, main: Main, preload: Sequence[str]) -> None:
    """Be the warm process until the supervisor is gone; never returns."""
    os.setsid()
    setproctitle("interlock warm")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        for name in preload:
            importlib.import_module(name)
        # What is loaded stays: the forks share these pages as long as no collection writes to them.
        gc.collect()
        gc.freeze()
        _answer_forks(connection, main)
    except BaseException:  # noqa: BLE001 - this frame stands on those of the command that was forked
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _answer_forks(connection: socket.socket, main: Main) -> None:
    forks = multiprocessing.get_context("fork")
    living: dict[int, multiprocessing.process.BaseProcess] = {}
    while True:
        for ready in wait([connection, *living]):
            if isinstance(ready, int):
                process = living.pop(ready)
                process.join()
                connection.send(_encode(Ended(process.pid or 0, process.exitcode or 0)))
                process.close()
                continue
            content, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
            if not content:
                return
            wanted = _wanted.decode(content)
            process = forks.Process(target=_become, args=(connection, wanted, descriptors, main), name=wanted.name)
            try:
                process.start()
            except OSError as error:
                connection.send(_encode(Refused(wanted.number, error.errno or 0)))
                continue
            finally:
                close_all(descriptors)
            living[process.sentinel] = process
            pidfd = os.pidfd_open(process.pid or 0)
            socket.send_fds(connection, [_encode(Started(wanted.number, process.pid or 0))], [pidfd])
            os.close(pidfd)


def _become(connection: socket.socket, wanted: Wanted, descriptors: Sequence[int], main: Main) -> None:
    """Be the role: its own session, its own output, and then what its command line would have run."""
    connection.close()
    os.setsid()
    setproctitle(f"interlock {wanted.name}-{wanted.index}")
    link, output, *listener = descriptors
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
    os.environ.update(wanted.env)
    os.environ.update(named_descriptors(link, listener[0] if listener else None))
    os.environ[IS_FORKED] = "1"
    gc.enable()
    raise SystemExit(main(wanted.name, wanted.index))
