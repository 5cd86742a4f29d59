"""The data directory: every path that the platform writes, its mode, and who may own it.

Does not write any of the files for others, but for pid files and key files, whose modes are part of the contract.
"""

import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from interlock.foundation.errors import BrokenWorldError

DIRECTORY_MODE: Final = 0o700
# A store that may not run as root runs as another user, who has to pass through to `pg/`.
PASSABLE_MODE: Final = 0o711
FILE_MODE: Final = 0o600
# `sun_path` holds 108 bytes on Linux and 104 elsewhere, the closing NUL included.
SOCKET_PATH_BYTES_MAX: Final = 100
_SOCKET_NAME_CHARS_MAX: Final = 16
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9/._~+-]+")
STORE_UID: Final = 65534


class DataDirectory:
    """The paths below one `--data DIR`. Building it touches nothing; `prepare` creates and checks."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the symlink that prepare refuses

    @property
    def owner_key(self) -> Path:
        """The first owner's API key, one line."""
        return self.root / "owner.key"

    @property
    def master_key(self) -> Path:
        """The private key that opens secrets."""
        return self.root / "master.key"

    @property
    def pepper(self) -> Path:
        """What API keys are hashed with."""
        return self.root / "pepper"

    @property
    def audit_key(self) -> Path:
        """The key that signs checkpoints."""
        return self.root / "audit.key"

    @property
    def run(self) -> Path:
        """What exists only while `up` runs."""
        return self.root / "run"

    @property
    def url_file(self) -> Path:
        """One line, the base URL of the running platform."""
        return self.run / "url"

    @property
    def lock_file(self) -> Path:
        """Held by the running supervisor."""
        return self.run / "lock"

    @property
    def options_file(self) -> Path:
        """The flags of `up`, for the roles that it starts."""
        return self.run / "options.json"

    @property
    def sockets_file(self) -> Path:
        """Names the socket folder, where one is needed."""
        return self.run / "sockets"

    @property
    def internal_token(self) -> Path:
        """The bearer token of calls between roles."""
        return self.run / "internal.token"

    @property
    def kill_dir(self) -> Path:
        """Signed local kill switches."""
        return self.run / "kill.d"

    @property
    def pg(self) -> Path:
        """The embedded store; its inside belongs to the launcher."""
        return self.root / "pg"

    @property
    def logs(self) -> Path:
        """Rotated JSON logs."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Signed audit checkpoints, one JSON object a line."""
        return self.root / "audit" / "checkpoints.jsonl"

    @property
    def artifacts(self) -> Path:
        """The default artifact store."""
        return self.root / "artifacts"

    @property
    def models(self) -> Path:
        """Engines built from models, by their digest."""
        return self.root / "models"

    def pid_file(self, role: str, index: int = 0) -> Path:
        """Return the pid file of one process; the supervisor's own has no number."""
        return self.run / ("supervisor.pid" if role == "supervisor" else f"{role}-{index}.pid")

    def snapshot(self, role: str) -> Path:
        """Return the signed start state of a role."""
        return self.root / "snapshots" / f"{role}.snap"

    def spool(self, role: str, index: int) -> Path:
        """Return the ring of records that one process has not shipped yet; segments lie beside it."""
        return self.root / "spool" / f"{role}-{index}.ring"

    def socket(self, role: str) -> Path:
        """Return where a role listens for the others.

        A path that is too long for a socket, or that cannot stand in a `unix:` URL as it is (a blank, a colon, a
        letter beyond ASCII), moves to the socket folder.
        """
        if len(role) > _SOCKET_NAME_CHARS_MAX:
            raise ValueError(f"{role}: a socket's name has at most {_SOCKET_NAME_CHARS_MAX} characters")
        near = self.run / f"{role}.sock"
        fits = len(os.fsencode(near)) <= SOCKET_PATH_BYTES_MAX and _URL_SAFE.fullmatch(str(near)) is not None
        return near if fits else self.socket_folder / near.name

    @property
    def socket_folder(self) -> Path:
        """The short folder for sockets, derived from the path of the data directory."""
        digest = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:12]
        return Path("/tmp") / f"interlock-{os.getuid()}-{digest}"  # noqa: S108 - owner and mode are checked

    def prepare(self) -> None:
        """Create what is missing with its mode. Raises `BrokenWorldError` `unsafe_data_directory`."""
        mode = PASSABLE_MODE if os.geteuid() == 0 else DIRECTORY_MODE
        self._create(self.root, mode, parents=True)
        self.check()
        for folder in (self.run, self.kill_dir, self.logs, self.root / "snapshots", self.root / "spool"):
            self._create(folder, DIRECTORY_MODE)
        for folder in (self.checkpoints.parent, self.artifacts, self.models):
            self._create(folder, DIRECTORY_MODE)
        if self._may_need_socket_folder():
            _create_socket_folder(self.socket_folder)
            write_private(self.sockets_file, f"{self.socket_folder}\n".encode())

    def _may_need_socket_folder(self) -> bool:
        return self.socket("x" * _SOCKET_NAME_CHARS_MAX).parent != self.run

    def check(self) -> None:
        """Refuse a symlink or a foreign owner at the top or directly below it."""
        _require_own(self.root, self.root)
        for entry in sorted(self.root.iterdir()):
            _require_own(entry, self.root)

    def clean_run(self) -> None:
        """Remove what a drained platform leaves behind in `run/`, local kills and the lock file excepted."""
        for entry in self.run.iterdir():
            if entry.name in {"kill.d", "lock"}:
                continue
            entry.unlink(missing_ok=True)
        if self.socket_folder.is_dir() and self._may_need_socket_folder():
            for entry in self.socket_folder.iterdir():
                entry.unlink(missing_ok=True)
            with suppress(OSError):
                self.socket_folder.rmdir()

    def write_pid(self, role: str, index: int, pid: int) -> None:
        """Record a process. The file is written in place: the process itself holds a lock on it."""
        _write_in_place(self.pid_file(role, index), f"{pid}\n")

    def key_file(self, path: Path, make: Callable[[], bytes]) -> bytes:
        """Return the content of a key file, made once and for all if it is not there yet.

        Two processes that start at once agree on one content: the file appears whole or not at all.
        """
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        fresh = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
        sync_folder(path.parent)
        return path.read_bytes()

    @staticmethod
    def _create(folder: Path, mode: int, *, parents: bool = False) -> None:
        if parents:
            folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            return
        folder.chmod(mode)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file whole, mode 0600, so that a reader sees the old or the new content."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and links in `folder` outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> int | None:
    """Take the lock on a file and return its descriptor, or None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def holder_of(pid_file: Path) -> int | None:
    """Return the pid that a file names, if the process that locked it still lives."""
    try:
        descriptor = os.open(pid_file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_pid(pid_file)
    finally:
        os.close(descriptor)
    return None


def read_pid(pid_file: Path) -> int | None:
    """Return the number in a pid file, or None where there is none."""
    try:
        return int(pid_file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _write_in_place(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    with os.fdopen(descriptor, "r+", encoding="ascii") as file:
        file.write(text)
        file.truncate()


def _require_own(entry: Path, root: Path) -> None:
    found = entry.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise BrokenWorldError(
            "unsafe_data_directory", f"{entry} is a symbolic link", "give --data the folder itself, with no links in it"
        )
    owners = {os.geteuid()}
    if os.geteuid() == 0 and entry.name == "pg" and entry.parent == root:
        owners.add(STORE_UID)
    if found.st_uid not in owners:
        raise BrokenWorldError(
            "unsafe_data_directory",
            f"{entry} belongs to uid {found.st_uid}, this process is uid {os.geteuid()}",
            "run as the owner of the folder or choose another --data",
        )


def _create_socket_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=DIRECTORY_MODE)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BrokenWorldError(
            "unsafe_data_directory", f"{folder} is not a folder of this user", "remove it or use a shorter --data path"
        )
    folder.chmod(DIRECTORY_MODE)
