import os
import stat
import subprocess
import sys
from multiprocessing.pool import ThreadPool

import pytest

from interlock.foundation import paths
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.supervisor import DataDirectory


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_private_and_its_files_are_too(tmp_path):
    directory = DataDirectory(tmp_path / "made" / "with blanks")
    directory.prepare()
    directory.clean_run()
    assert mode(directory.root) == (0o711 if os.geteuid() == 0 else 0o700)
    assert {mode(folder) for folder in directory.root.iterdir()} == {0o700}
    directory.key_file(directory.pepper, lambda: b"secret")
    directory.write_pid("edge", 1, 42)
    assert mode(directory.pepper) == mode(directory.pid_file("edge", 1)) == 0o600


def test_a_folder_that_was_there_keeps_its_mode(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o750)
    DataDirectory(folder).prepare()
    assert mode(folder) == 0o750


def test_the_paths_of_the_contract(tmp_path):
    directory = DataDirectory(tmp_path)
    root = tmp_path
    assert directory.url_file == root / "run/url"
    assert directory.owner_key == root / "owner.key"
    assert directory.pid_file("store") == root / "run/store-0.pid"
    assert directory.pid_file("supervisor") == root / "run/supervisor.pid"
    assert directory.socket("scheduler") == root / "run/scheduler.sock"
    assert directory.internal_token == root / "run/internal.token"
    assert directory.snapshot("edge") == root / "snapshots/edge.snap"
    assert directory.spool("edge", 1) == root / "spool/edge-1.ring"
    assert directory.checkpoints == root / "audit/checkpoints.jsonl"


@pytest.mark.parametrize("name", ["", "pg", "owner.key"])
def test_a_symlink_is_refused(tmp_path, name):
    real, folder = tmp_path / "real", tmp_path / "data"
    real.mkdir()
    if name:
        folder.mkdir()
    (folder / name if name else folder).symlink_to(real)
    with pytest.raises(BrokenWorldError, match=r"unsafe_data_directory: .*symbolic link"):
        DataDirectory(folder).prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_foreign_owner_is_refused_but_for_the_store_of_root(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.pg.mkdir()
    os.chown(directory.pg, 65534, 65534)
    directory.prepare()
    os.chown(directory.logs, 65534, 65534)
    with pytest.raises(BrokenWorldError, match=r"unsafe_data_directory: .*uid 65534"):
        directory.prepare()


def test_a_socket_whose_path_is_too_long_lies_in_a_short_private_folder(tmp_path):
    directory = DataDirectory(tmp_path / ("x" * 110))
    directory.prepare()
    try:
        socket = directory.socket("control")
        assert len(str(socket)) <= 100
        assert mode(socket.parent) == 0o700
        assert directory.sockets_file.read_text() == f"{socket.parent}\n"
    finally:
        directory.clean_run()
    assert not socket.parent.exists()


def test_the_boundary_of_a_socket_path_is_one_hundred_bytes(tmp_path):
    room = 100 - len(os.fsencode(tmp_path)) - len("//run/edge.sock")
    assert DataDirectory(tmp_path / ("y" * room)).socket("edge").parent.parent.parent == tmp_path
    assert DataDirectory(tmp_path / ("y" * (room + 1))).socket("edge").parent.parent.name == "tmp"
    assert DataDirectory(tmp_path / ("ü" * (room // 2 + 1))).socket("edge").parent.parent.name == "tmp"


@pytest.mark.parametrize("name", ["with blanks", "C:drive", "löwe", "50%"])
def test_a_socket_whose_path_would_break_a_url_lies_in_the_short_folder(tmp_path, name):
    assert DataDirectory(tmp_path / name).socket("edge").parent.parent.name == "tmp"
    assert DataDirectory(tmp_path / "plain-1.2_3").socket("edge").parent.parent.name == "plain-1.2_3"


def test_a_key_file_is_made_once_whoever_comes_first(tmp_path):
    directory = DataDirectory(tmp_path)
    with ThreadPool(8) as pool:
        seen = pool.map(lambda n: directory.key_file(directory.pepper, lambda: b"%d" % n * 1000), range(8))
    assert len(set(seen)) == 1
    assert directory.pepper.read_bytes() == seen[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["pepper"]


def test_a_lock_tells_a_living_holder_from_a_number_in_a_file(tmp_path):
    file = tmp_path / "edge-0.pid"
    file.write_text(f"{os.getpid()}\n")
    assert paths.holder_of(file) is None
    held = paths.lock(file)
    imports = "from pathlib import Path; from interlock.foundation import paths"
    script = f"{imports}; print(paths.holder_of(Path({str(file)!r})))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == f"{os.getpid()}\n"
    os.close(held)
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "None\n"


def test_a_drain_leaves_local_kills_and_the_lock(tmp_path):
    directory = DataDirectory(tmp_path)
    directory.prepare()
    (directory.kill_dir / "one").write_text("kill")
    directory.url_file.write_text("url")
    directory.lock_file.write_text("")
    directory.clean_run()
    assert sorted(entry.name for entry in directory.run.iterdir()) == ["kill.d", "lock"]
    assert (directory.kill_dir / "one").exists()
