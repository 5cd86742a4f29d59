"""The file tools' hands: opens paths of a tree from the host without ever leaving it.

Decides nothing about permission. By `openat2` with `RESOLVE_BENEATH` where the kernel has it, else part by part
without following a link: then a path through a link inside the tree is refused too, which is the safe side.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Final

from interlock.agents.domain.paths import is_safe, parents
from interlock.agents.domain.types import Slot

_OPENAT2: Final = 437  # the same on x86_64 and aarch64
_NO_MAGICLINKS: Final = 0x02
_BENEATH: Final = 0x08
_TEMPORARY: Final = ".interlock-write"
_PIECE_BYTES: Final = 1 << 20
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class PathRefusedError(Exception):
    """The path cannot be used; the message is fit for the model."""


class TreeFiles:
    """The files below one folder; what is written belongs to the slot's uid."""

    def __init__(self, root: PurePath, slot: Slot, *, has_openat2: bool | None = None) -> None:
        """`has_openat2` is asked of the kernel where it is None."""
        self._root = root
        self._slot = slot
        self._has_openat2 = _kernel_has_openat2() if has_openat2 is None else has_openat2

    def read(self, path: str, bytes_max: int) -> bytes:
        """Return the first bytes of a regular file. Raises `PathRefusedError`."""
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as handle:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise PathRefusedError(f"{path} is not a regular file")
            content = bytearray()
            while len(content) < bytes_max and (piece := os.read(handle, min(_PIECE_BYTES, bytes_max - len(content)))):
                content += piece
            return bytes(content)

    def write(self, path: str, content: bytes) -> None:
        """Write a regular file whole, with the folders above it. Raises `PathRefusedError`, and `OSError` on no space.

        A file that is there is replaced, never written into: another name of it, in or out of sight, stays as it was.
        """
        self._require_safe(path)
        *_, name = path.split("/")
        above = path.rpartition("/")[0]
        mode = 0o644
        with self._folder(above, is_made=True) as folder:
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise PathRefusedError(f"{path} is not a regular file")
                mode = stat.S_IMODE(found.st_mode) & 0o777
            with suppress(FileNotFoundError):
                os.unlink(_TEMPORARY, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(_TEMPORARY, flags, 0o600, dir_fd=folder)
            try:
                try:
                    _write_all(handle, content)
                    os.fchown(handle, self._slot.uid, self._slot.gid)
                    os.fchmod(handle, mode)
                finally:
                    os.close(handle)
                os.rename(_TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(_TEMPORARY, dir_fd=folder)
                raise

    def delete(self, path: str) -> None:
        """Remove a file or a link. Raises `PathRefusedError`."""
        self._require_safe(path)
        above, _, name = path.rpartition("/")
        with self._folder(above) as folder:
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                raise PathRefusedError(f"{path} does not exist") from None
            except IsADirectoryError:
                raise PathRefusedError(f"{path} is a folder") from None

    def lay(self, path: str, content: bytes) -> None:
        """Write a file whatever stands in the way: a link or a file in place of a folder above it is removed first."""
        self._require_safe(path)
        for each in (*parents(path), path):
            above, _, name = each.rpartition("/")
            with self._folder(above, is_made=True) as folder, suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode) and not (each == path and stat.S_ISREG(found.st_mode)):
                    os.unlink(name, dir_fd=folder)
        self.write(path, content)

    def real(self, path: str) -> str:
        """Return the path that a path leads to, links of the tree followed. Raises `PathRefusedError`."""
        with self._opened(path, os.O_PATH) as handle, self._opened("", os.O_PATH | os.O_DIRECTORY) as root:
            found, above = (Path(f"/proc/self/fd/{each}").readlink() for each in (handle, root))
        return "" if found == above else found.relative_to(above).as_posix()

    def entries(self, path: str) -> list[tuple[str, int]]:
        """Return name and mode of what a folder holds, by name; an empty path is the tree. Raises `PathRefusedError`.

        The mode is that of the entry itself: of a link, not of what it leads to.
        """
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder, os.scandir(folder) as found:
            return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in found)

    @contextmanager
    def _folder(self, path: str, *, is_made: bool = False) -> Iterator[int]:
        if is_made:
            for each in (*parents(path), path) if path else ():
                self._make_folder(each)
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as handle:
            yield handle

    def _make_folder(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        with self._opened(above, os.O_RDONLY | os.O_DIRECTORY) as folder:
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
            except FileExistsError:
                return
            os.chown(name, self._slot.uid, self._slot.gid, dir_fd=folder, follow_symlinks=False)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        if path:
            self._require_safe(path)
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = self._open_below(root, path or ".", flags | os.O_CLOEXEC)
        except OSError as error:
            raise PathRefusedError(f"{path or 'the tree'}: {_reason(error)}") from None
        finally:
            os.close(root)
        try:
            yield handle
        finally:
            os.close(handle)

    def _open_below(self, root: int, path: str, flags: int) -> int:
        if not self._has_openat2:
            return _walk(root, path, flags)
        how = _OpenHow(flags, 0, _BENEATH | _NO_MAGICLINKS)
        handle: int = _libc.syscall(
            _OPENAT2, root, ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), ctypes.sizeof(how)
        )
        if handle < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return handle

    def _require_safe(self, path: str) -> None:
        if not is_safe(path):
            raise PathRefusedError(f"{path[:80]!r} is not a path inside the tree")


def _walk(root: int, path: str, flags: int) -> int:
    """Open one part after the other; a link anywhere is an error."""
    *above, name = path.split("/")
    folder = os.dup(root)
    try:
        for part in above:
            deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _kernel_has_openat2() -> bool:
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _BENEATH)
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        handle: int = _libc.syscall(_OPENAT2, here, ctypes.c_char_p(b"."), ctypes.byref(how), ctypes.sizeof(how))
    finally:
        os.close(here)
    if handle >= 0:
        os.close(handle)
    return handle >= 0


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _reason(error: OSError) -> str:
    if error.errno in {errno.EXDEV, errno.ELOOP}:
        return "leads out of the tree"
    return os.strerror(error.errno or 0).lower()
