"""The folder of the embedded store: its layout, its passwords, its creation, its socket folder.

Starts no server; `launcher.py` does. All of it blocks and is called in a thread.
"""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.paths import sync_folder
from interlock.foundation.store.binaries import Binaries
from interlock.foundation.store.roles import ALL, SUPERUSER
from interlock.foundation.store.runas import RunAs, give, make_private_folder

SOCKET_PATH_BYTES_MAX: Final = 100
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_PASSWORD_BYTES: Final = 32
_INITDB_S: Final = 240
_LOCALE_PROVIDER_SINCE: Final = 17


@dataclass(frozen=True, slots=True)
class PostmasterFile:
    """What `postmaster.pid` says: who, where its socket is, and whether it takes connections."""

    pid: int
    sockets: Path
    is_ready: bool


class Cluster:
    """`DIR/pg` and what lies in it."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir
        self.pg = data_dir / "pg"
        self.data = self.pg / "data"
        self.log = self.pg / "postgres.log"

    @property
    def major(self) -> int | None:
        """The major version that made the data folder, None where there is none yet."""
        try:
            return int((self.data / "PG_VERSION").read_text().strip())
        except FileNotFoundError:
            return None

    def postmaster(self) -> PostmasterFile | None:
        """Return the content of `postmaster.pid`; None where it is absent or half written."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        sockets = Path(lines[4]) if len(lines) > 4 else self.pg / "s"
        return PostmasterFile(pid, sockets, len(lines) >= 8 and lines[7].strip() == "ready")

    def runs(self, pid: int) -> bool:
        """Tell whether that process lives and is a postmaster of this folder."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        try:
            # A postmaster works inside its data folder; a reused pid belongs to somebody who does not.
            return Path(f"/proc/{pid}/cwd").samefile(self.data) and not is_zombie(pid)
        except (FileNotFoundError, ProcessLookupError):
            return not Path("/proc/self").exists()
        except PermissionError:
            return True

    def prepare(self, who: RunAs) -> None:
        """Make `pg` and its socket folder, owned by the user of the store."""
        make_private_folder(self.pg, who)
        self.socket_folder(who)

    def passwords(self) -> dict[str, str]:
        """Return the password of each role, made and synced at first use."""
        path = self.pg / "roles.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            if self.data.exists():
                raise BrokenWorldError(
                    "store_passwords_lost", f"{path} is gone, its store is not", "put the file back from a backup"
                ) from None
            found = {role: secrets.token_urlsafe(_PASSWORD_BYTES) for role in (*ALL, SUPERUSER)}
            _write_synced(path, json.dumps(found, indent=1))
        return {str(role): str(password) for role, password in found.items()}

    def socket_folder(self, who: RunAs) -> Path:
        """Return the folder of the socket, made if need be: below `pg`, or a short one where that cannot be used."""
        near = self.pg / "s"
        # The driver takes a comma in a host for the start of the next one.
        if len(os.fsencode(near / _SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX and "," not in str(near):
            make_private_folder(near, who)
            return near
        digest = hashlib.sha256(os.fsencode(self.pg.resolve())).hexdigest()[:12]
        short = Path("/tmp") / f"interlock-{who.uid}-{digest}"  # noqa: S108 - owner and mode are checked below
        make_private_folder(short, who)
        _write_synced(self.pg / "socket", f"{short}\n")
        return short

    def remove_short_socket_folder(self) -> None:
        """Leave nothing behind in the folder of temporary files."""
        try:
            folder = Path((self.pg / "socket").read_text(encoding="utf-8").strip())
            folder.rmdir()
        except OSError:
            return

    def create(self, binaries: Binaries, who: RunAs) -> None:
        """Run initdb in `data.new`, sync it, rename it: a crash in between leaves nothing half made."""
        fresh = self.pg / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        password_file = self.pg / "initdb.password"
        _write_synced(password_file, self.passwords()[SUPERUSER] + "\n")
        give(password_file, who)
        try:
            self._run(binaries, who, initdb_arguments(binaries.major, fresh, password_file))
        finally:
            password_file.unlink(missing_ok=True)
        self._run(binaries, who, ["--sync-only", "-D", str(fresh)])
        fresh.rename(self.data)
        sync_folder(self.pg)

    def _run(self, binaries: Binaries, who: RunAs, arguments: list[str]) -> None:
        done = subprocess.run(  # noqa: S603 - our own binaries
            [*who.prefix, str(binaries.initdb), *arguments],
            cwd="/",
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INITDB_S,
            check=False,
            **who.options(),
        )
        if done.returncode:
            raise BrokenWorldError(
                "store_init_failed", f"initdb: {done.stderr.strip()[-500:]}", "look at the space and the modes of DIR"
            )


def initdb_arguments(major: int, folder: Path, password_file: Path) -> list[str]:
    """Return the arguments of initdb: scram, checksums, UTF-8, a locale that no library update can change."""
    locale = ["--locale-provider=builtin"] if major >= _LOCALE_PROVIDER_SINCE else []
    return [
        "-D", str(folder), "--auth=scram-sha-256", f"--pwfile={password_file}", f"--username={SUPERUSER}",
        "--data-checksums", "--encoding=UTF8", *locale, "--locale=C.UTF-8", "--no-sync", "--no-instructions",
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """Return the environment of every program of the store; nothing of ours leaks into it."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and only waits to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _write_synced(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    sync_folder(path.parent)
