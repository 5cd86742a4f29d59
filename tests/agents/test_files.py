"""The file tools' hands never leave the tree, by either way of opening."""

import os
from pathlib import Path

import pytest

from interlock.agents.adapters.files import PathRefusedError, TreeFiles
from interlock.agents.domain.types import Slot

ME = Slot(0, os.geteuid(), os.getegid())


@pytest.fixture(params=[None, False], ids=["openat2", "walk"])
def tree(request, tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (root / "a.txt").write_text("one")
    (root / "d").mkdir()
    return TreeFiles(root, ME, has_openat2=request.param), root


def test_what_is_written_is_read_with_its_folders_made(tree):
    files, root = tree
    files.write("x/y/z.txt", b"new")
    assert files.read("x/y/z.txt", 10) == b"new"
    (root / "a.txt").chmod(0o755)
    files.write("a.txt", b"two")
    assert (root / "a.txt").stat().st_mode & 0o777 == 0o755
    files.delete("a.txt")
    with pytest.raises(PathRefusedError):
        files.read("a.txt", 10)


@pytest.mark.parametrize(
    "link",
    ["../outside.txt", "/etc/passwd", "/proc/self/environ", "/proc/self/root/etc/passwd", "../../../../etc/passwd"],
)
def test_a_link_out_of_the_tree_is_not_read_written_or_listed(tree, link):
    files, root = tree
    (root / "l").symlink_to(link)
    for act in (lambda: files.read("l", 10), lambda: files.write("l", b"x")):
        with pytest.raises(PathRefusedError):
            act()
    assert (root.parent / "outside.txt").read_text() == "secret"
    files.delete("l")
    assert not os.path.lexists(root / "l")


@pytest.mark.parametrize("target", ["../..", "/", "/proc/self/cwd"])
def test_a_folder_that_is_a_link_out_of_the_tree_is_not_entered(tree, target):
    files, root = tree
    (root / "d" / "up").symlink_to(target)
    for act in (
        lambda: files.read("d/up/outside.txt", 10),
        lambda: files.write("d/up/new.txt", b"x"),
        lambda: files.delete("d/up/outside.txt"),
    ):
        with pytest.raises(PathRefusedError):
            act()
    assert not (root.parent / "new.txt").exists()
    assert (root.parent / "outside.txt").exists()


def test_only_regular_files_are_read_and_a_pipe_does_not_hold_us_up(tree):
    files, root = tree
    os.mkfifo(root / "pipe")
    for path in ("pipe", "d"):
        with pytest.raises(PathRefusedError):
            files.read(path, 10)
        with pytest.raises(PathRefusedError):
            files.write(path, b"x")
    with pytest.raises(PathRefusedError):
        files.delete("d")


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", ".git/config", "", ".", "d/./x", "x\0", "a" * 2000]
)
def test_a_path_that_is_none_is_refused(tree, path):
    files, _ = tree
    for act in (lambda: files.read(path, 1), lambda: files.write(path, b""), lambda: files.delete(path)):
        with pytest.raises(PathRefusedError):
            act()


def test_another_name_of_a_file_keeps_its_content(tree):
    """A hard link is another name; writing replaces the name and not what others see."""
    files, root = tree
    os.link(root / "a.txt", root / "b.txt")
    files.write("a.txt", b"changed")
    assert (root / "b.txt").read_text() == "one"


def test_a_trap_at_the_name_of_the_new_file_is_not_followed(tree):
    files, root = tree
    (root / ".interlock-write").symlink_to("../outside.txt")
    files.write("a.txt", b"x")
    assert (root.parent / "outside.txt").read_text() == "secret"
    assert sorted(path.name for path in Path(root).iterdir()) == ["a.txt", "d"]


def test_what_is_laid_over_a_tree_replaces_links_in_its_way(tree):
    files, root = tree
    (root / "t").symlink_to("..")
    files.lay("t/check.py", b"check")
    (root / "c.py").symlink_to("../outside.txt")
    files.lay("c.py", b"check")
    files.lay("a.txt/x", b"check")
    assert (root / "t/check.py").read_text() == (root / "c.py").read_text() == (root / "a.txt/x").read_text() == "check"
    assert (root.parent / "outside.txt").read_text() == "secret"


def test_what_is_written_belongs_to_the_slot(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    files = TreeFiles(tmp_path, Slot(3, 64_003, 64_003))
    files.write("x/y.txt", b"1")
    assert {path.stat().st_uid for path in (tmp_path / "x", tmp_path / "x/y.txt")} == {64_003}
    assert Path(tmp_path / "x/y.txt").read_bytes() == b"1"
