"""Trees survive what an agent does to them, and host git runs nothing that a tree brings along."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from interlock.agents.adapters import git as git_module
from interlock.agents.adapters.git import GitTrees
from interlock.agents.domain.ports import Export
from interlock.agents.domain.types import BundleRepo, EmptyRepo, FilesRepo, LimitSet, RepoRefused, TreeRefused
from interlock.foundation.redaction import Redactor
from tests.support.store import IDS

FILES = {"src/a.py": "x = 1\n", "src/b.py": "y = 2\n", "tests/test_a.py": "import a\n", ".gitignore": "*.log\n"}


def owners(root):
    found = set()
    for folder, folders, files in os.walk(root):
        found |= {(Path(folder) / name).lstat().st_uid for name in (*folders, *files, ".")}
    return found


def read(place, path):
    return (Path(place.work) / path).read_text()


async def test_the_same_files_give_the_same_commit_everywhere(machine):
    (_, first), (_, second) = await machine.repo(FILES), await machine.repo(FILES)
    assert first == second
    place = machine.trees.place("same", machine.slot)
    assert await machine.trees.create(place, FilesRepo(dict(reversed(FILES.items())))) == first
    assert await machine.trees.check(FilesRepo(FILES)) == first


async def test_a_step_is_kept_undone_and_gone_to_again(machine):
    place, base = await machine.repo(FILES)
    await machine.shell(place, "echo z >> src/a.py; rm src/b.py; chmod +x tests/test_a.py; ln -s a.py src/l")
    one = await machine.snapshot(place, 1, base.commit)
    assert {(each.path, each.status) for each in one.diff.changes} == {
        ("src/a.py", "M"), ("src/b.py", "D"), ("src/l", "A"), ("tests/test_a.py", "M"),
    }  # fmt: skip
    await machine.trees.restore(place, base.tree)
    assert read(place, "src/b.py") == "y = 2\n"
    assert not os.path.lexists(place.work / "src" / "l")
    assert (await machine.snapshot(place, 2, base.commit)).tree == base.tree
    await machine.trees.restore(place, one.tree)
    assert (await machine.snapshot(place, 3, base.commit)).tree == one.tree


async def test_ignored_files_are_no_part_of_a_tree_and_do_not_outlive_an_undo(machine):
    place, base = await machine.repo(FILES)
    await machine.shell(place, "echo x > a.log; mkdir -p src/__pycache__; echo x > src/__pycache__/a.pyc; echo n > new")
    one = await machine.snapshot(place, 1, base.commit)
    assert one.diff.paths == ("new",)
    await machine.trees.restore(place, base.tree)
    left = {str(path.relative_to(place.work)) for path in Path(place.work).rglob("*")}
    assert left == {"src", "tests", *FILES}


async def test_a_repository_inside_of_the_tree_loses_its_git_and_keeps_its_files(machine):
    place, base = await machine.repo(FILES)
    nested = (
        "mkdir -p in/empty in/full; (cd in/empty; git init -q; echo 1 > kept)"
        "; (cd in/full; git init -q; echo 2 > kept; git add -A; git -c user.name=a -c user.email=a@b commit -qm x)"
        "; mkdir odd; mkdir odd/.GIT; echo 3 > odd/kept; echo 'gitdir: /' > src/.git; ln -s / odd/.Git; ls"
    )
    ran = await machine.shell(place, nested)
    assert ran.exit_code == 0, ran.output
    one = await machine.snapshot(place, 1, base.commit)
    assert {path for path in one.diff.paths if "kept" in path} == {"in/empty/kept", "in/full/kept", "odd/kept"}
    assert not any(".git" in path.lower().split("/") for path in one.diff.paths)
    await machine.trees.restore(place, base.tree)
    await machine.trees.restore(place, one.tree)
    assert read(place, "in/full/kept") == "2\n"


async def test_attributes_of_the_tree_change_no_byte(machine):
    place, base = await machine.repo({".gitattributes": "* text eol=crlf ident\n*.x filter=f diff=d\n", "a.txt": "x\n"})
    await machine.shell(place, "printf 'a\\r\\nb\\n$Id$\\n' > a.txt; printf 'k\\n' > b.x; printf '\\377\\n' > latin")
    one = await machine.snapshot(place, 1, base.commit)
    await machine.trees.restore(place, base.tree)
    assert (Path(place.work) / "a.txt").read_bytes() == b"x\n"
    await machine.trees.restore(place, one.tree)
    assert (Path(place.work) / "a.txt").read_bytes() == b"a\r\nb\n$Id$\n"
    assert (Path(place.work) / "latin").read_bytes() == b"\377\n"


def evil_repository(act):
    """A script that puts `act` wherever git is known to look for something to run."""
    config = (
        f"[core]\\n fsmonitor = {act}\\n hooksPath = /task/h\\n"
        f'[filter "f"]\\n clean = {act}\\n smudge = {act}\\n[diff "f"]\\n textconv = {act}\\n'
    )
    names = "pre-commit post-checkout reference-transaction post-index-change fsmonitor-watchman"
    return (
        f"git init -q; printf '{config}' > .git/config; cp .git/config config; cp .git/config .gitconfig"
        f"; mkdir -p h hooks; for n in {names}; do printf '#!/bin/sh\\n{act}\\n' > h/$n; chmod +x h/$n"
        "; cp h/$n hooks/$n; cp h/$n .git/hooks/$n; done; echo '* filter=f diff=f merge=f' > .gitattributes"
        "; echo 'y' > src/a.py; printf '#!/bin/sh\\n' > git; chmod +x git"
    )


async def test_host_git_runs_nothing_from_the_tree(machine):
    """Hooks, monitors, filters and drivers, in a nested repository, in attributes and in the tree's own names."""
    place, base = await machine.repo(FILES)
    ran = Path("/var/tmp") / f"ran-{IDS.new().hex}"
    await machine.shell(place, evil_repository(f"touch {ran}"))
    one = await machine.snapshot(place, 1, base.commit)
    await machine.trees.patch(place, base.commit, one.commit, 1 << 20)
    await machine.trees.restore(place, base.tree)
    await machine.trees.restore(place, one.tree)
    folder = await machine.trees.export(place, Export(one.tree, base.commit, ("tests/**",), {"v/x": "1"}))
    await machine.trees.discard(place, folder)
    await machine.trees.bundle(place, 1, base.commit)
    assert not ran.exists()
    assert "hooks/pre-commit" in one.diff.paths


async def test_files_stay_the_slot_s_after_git_and_after_an_undo(machine):
    place, base = await machine.repo(FILES)
    await machine.shell(place, "rm -r src; mkdir src; echo n > src/n; rm tests/test_a.py")
    one = await machine.snapshot(place, 1, base.commit)
    await machine.trees.restore(place, base.tree)
    assert owners(place.root) == {place.slot.uid}
    ran = await machine.shell(place, "echo more >> src/a.py && rm tests/test_a.py && echo new > src/new")
    assert ran.exit_code == 0, ran.output
    await machine.trees.restore(place, one.tree)
    assert owners(place.root) == {place.slot.uid}


async def test_a_place_is_given_to_the_next_slot(machine):
    if os.geteuid() != 0:
        pytest.skip("a user has one uid")
    place, _ = await machine.repo(FILES)
    await machine.shell(place, "echo x > mine")
    other = machine.slots.take()
    try:
        moved = machine.trees.place(place.root.name, other)
        await machine.trees.adopt(moved)
        assert owners(moved.root) == {other.uid}
        ran = await machine.shell(moved, "echo y >> mine; cat mine")
        assert ran.output == b"x\ny\n"
    finally:
        machine.slots.give_back(other)


async def test_what_an_agent_closed_to_itself_is_kept_all_the_same(machine):
    place, base = await machine.repo(FILES)
    await machine.shell(place, "mkdir -p c/d; echo x > c/d/e; chmod 0 c/d/e c/d c src/a.py; mkfifo p; mkdir deep")
    one = await machine.snapshot(place, 1, base.commit)
    assert one.diff.paths == ("c/d/e",)
    await machine.trees.restore(place, base.tree)
    assert sorted(path.name for path in Path(place.work).iterdir()) == [".gitignore", "src", "tests"]


@pytest.mark.parametrize(
    ("command", "limits"),
    [
        ("for n in $(seq 30); do echo $n > f$n; done", LimitSet(tree_files=20)),
        ("head -c 3000000 /dev/urandom > f", LimitSet(tree_bytes=1 << 20)),
        ("for n in $(seq 70); do mkdir d; cd d; done; echo x > f", LimitSet()),
        ('python3 -c \'import os\nfor n in range(3000): os.mkdir("d" * 9); os.chdir("d" * 9)\'', LimitSet()),
    ],
)
async def test_a_tree_beyond_its_limits_is_refused_and_can_be_restored(machine, command, limits):
    place, base = await machine.repo(FILES)
    trees = GitTrees(machine.state, IDS, limits)
    ran = await machine.shell(place, command)
    assert ran.exit_code == 0, ran.output
    refused = await replace_trees(machine, trees).snapshot(place, 1, base.commit)
    assert isinstance(refused, TreeRefused)
    assert refused.code == "tree_too_large"
    await trees.restore(place, base.tree)
    assert (await machine.snapshot(place, 2, base.commit)).tree == base.tree
    assert len(list(Path(place.work).rglob("*"))) == 6


def replace_trees(machine, trees):
    return replace(machine, trees=trees)


async def test_an_export_has_protected_paths_of_the_base_and_the_check_s_own_files(machine):
    place, base = await machine.repo({**FILES, "tests/gone.py": "1\n", "link": "f\n"})
    await machine.shell(
        place, "echo bad > tests/test_a.py; rm tests/gone.py; echo n > tests/new.py; echo z > src/a.py; ln -sf /etc out"
    )
    one = await machine.snapshot(place, 1, base.commit)
    wanted = Export(one.tree, base.commit, ("tests/**",), {"out/hidden.py": "secret\n", "src/a.py/x": "1\n"})
    folder = Path(await machine.trees.export(place, wanted))
    assert (folder / "tests/test_a.py").read_text() == "import a\n"
    assert (folder / "tests/gone.py").exists()
    assert not (folder / "tests/new.py").exists()
    # A link or a file of the agent's in the way of the check is replaced, never followed.
    assert (folder / "out/hidden.py").read_text() == "secret\n"
    assert not (folder / "out").is_symlink()
    assert owners(folder) == {place.slot.uid}
    await machine.trees.discard(place, folder)
    assert list(Path(place.scratch).iterdir()) == []


async def test_a_tree_is_rebuilt_elsewhere_from_its_bundles(machine):
    place, base = await machine.repo(FILES)
    bundles = [await machine.trees.bundle(place, 0, None)]
    parent = base.commit
    for number in (1, 2, 3):
        await machine.shell(place, f"echo {number} >> src/a.py")
        one = await machine.snapshot(place, number, parent)
        bundles.append(await machine.trees.bundle(place, number, parent))
        parent = one.commit
    other = machine.trees.place("elsewhere", machine.slot)
    await machine.trees.remove(other)
    assert not await machine.trees.has(other, parent)
    for bundle in bundles:
        await machine.trees.apply(other, bundle)
    assert await machine.trees.has(other, parent)
    await machine.trees.restore(other, parent)
    assert read(other, "src/a.py") == "x = 1\n1\n2\n3\n"
    assert len(bundles[3]) < len(await machine.trees.bundle(place, 3, None))
    fsck = subprocess.run(
        ["git", "-c", "safe.directory=*", f"--git-dir={other.git}", "fsck", "--strict"],
        capture_output=True,
        check=False,
    )
    assert fsck.returncode == 0, fsck.stderr


async def test_clones_share_no_refs(machine):
    (first, base), (second, _) = await machine.repo(FILES), await machine.repo(FILES)
    await machine.shell(first, "echo 1 > one")
    one = await machine.snapshot(first, 1, base.commit)
    await machine.trees.point(first, "agent/first", one.commit)
    assert not await machine.trees.has(second, one.commit)
    refs = list((Path(second.git) / "refs").rglob("first"))
    assert refs == []


async def test_a_patch_is_taken_by_git_apply_whatever_it_holds(machine, tmp_path):
    place, base = await machine.repo(FILES)
    await machine.shell(
        place,
        "echo z >> src/a.py; rm src/b.py; printf '\\000\\001' > bin; printf 'x\\351\\n' > latin; printf 'n' > nonl",
    )
    one = await machine.snapshot(place, 1, base.commit)
    patch = await machine.trees.patch(place, base.commit, one.commit, 1 << 20)
    assert not patch.is_cut
    assert "+z" in patch.text
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    subprocess.run(["git", "apply", "-"], input=patch.text.encode(), cwd=tmp_path, check=True)
    assert (tmp_path / "bin").read_bytes() == b"\0\1"
    assert (tmp_path / "latin").read_bytes() == b"x\351\n"
    assert not (tmp_path / "src/b.py").exists()
    assert (await machine.trees.patch(place, base.commit, one.commit, 50)).is_cut


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (path, "unsafe_path")
        for path in ("../x", "/etc/x", ".git/config", "a/.GIT/x", "a//b", "a/./b", "x\0y", "", "a/../b")
    ],
)
async def test_a_path_out_of_the_tree_is_refused(machine, path, code):
    refused = await machine.trees.check(FilesRepo({"ok.py": "", path: "x"}))
    assert (refused.code, refused.detail["path"]) == (code, path)


async def test_a_file_that_is_a_folder_too_is_refused(machine):
    refused = await machine.trees.check(FilesRepo({"a": "x", "a/b": "y"}))
    assert refused.code == "unsafe_path"


async def test_too_much_is_refused_with_limit_and_size(machine):
    refused = await machine.trees.check(FilesRepo({"a": "x" * ((1 << 20) + 1)}))
    assert (refused.code, refused.detail) == ("repo_too_large", {"limit": 1 << 20, "size": (1 << 20) + 1})
    refused = await machine.trees.check(BundleRepo(b"x" * ((16 << 20) + 1)))
    assert refused.code == "repo_too_large"


def git(folder, *args):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *names, *args], cwd=folder, check=True, capture_output=True, env=environment)


def bundle_of(folder, *args):
    git(folder, "bundle", "create", "out.bundle", *args)
    return BundleRepo((folder / "out.bundle").read_bytes())


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "a.py").write_text("a\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


async def test_a_bundle_begins_at_its_head(machine, checkout):
    place = machine.trees.place("bundled", machine.slot)
    base = await machine.trees.create(place, bundle_of(checkout, "HEAD", "main"))
    assert not isinstance(base, RepoRefused), base
    assert read(place, "a.py") == "a\n"
    assert owners(place.root) == {place.slot.uid}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    assert base.commit == head.stdout.strip()


async def test_a_bundle_that_is_none_or_lacks_its_past_is_refused(machine, checkout):
    assert (await machine.trees.check(BundleRepo(b"no bundle"))).code == "repo_invalid"
    (checkout / "a.py").write_text("b\n")
    git(checkout, "commit", "-qam", "two")
    thin = bundle_of(checkout, "HEAD", "^HEAD~1")
    refused = await machine.trees.check(thin)
    assert refused.code == "repo_invalid"
    assert "/" not in refused.message.replace("HEAD", "")
    whole = bundle_of(checkout, "HEAD")
    broken = BundleRepo(whole.content[:-30] + b"x" * 30)
    assert (await machine.trees.check(broken)).code == "repo_invalid"


async def test_a_link_out_of_the_tree_and_a_submodule_in_a_bundle_are_refused(machine, checkout):
    (checkout / "l").symlink_to("../../etc/passwd")
    git(checkout, "add", "l")
    git(checkout, "commit", "-qm", "link")
    refused = await machine.trees.check(bundle_of(checkout, "HEAD"))
    assert (refused.code, refused.detail["path"]) == ("unsafe_path", "l")
    git(checkout, "rm", "-q", "l")
    git(checkout, "update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    git(checkout, "commit", "-qm", "sub")
    assert (await machine.trees.check(bundle_of(checkout, "HEAD"))).code == "repo_invalid"


async def test_an_empty_repository_is_a_beginning(machine):
    place = machine.trees.place("empty", machine.slot)
    base = await machine.trees.create(place, EmptyRepo())
    await machine.shell(place, "echo x > x")
    assert (await machine.snapshot(place, 1, base.commit)).diff.paths == ("x",)


async def test_a_secret_in_what_a_step_wrote_is_found(machine):
    place, base = await machine.repo(FILES)
    await machine.shell(place, "printf 'a\\000hunter2-hunter2' > bin; echo aHVudGVyMi1odW50ZXIy > b64; echo ok > ok")
    one = await machine.snapshot(place, 1, base.commit)
    redactor = Redactor(named={"TOKEN": b"hunter2-hunter2"})
    assert await machine.trees.holds_secret(place, one.diff, one.commit, redactor) in {"bin", "b64"}
    assert await machine.trees.holds_secret(place, one.diff, one.commit, Redactor(named={"T": b"other-value"})) is None


async def test_a_full_disk_is_a_refusal_and_the_tree_before_is_there(machine):
    """On a small disk of its own, where there is one to be had."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    disk = Path("/var/tmp") / f"interlock-disk-{IDS.new().hex}"
    disk.mkdir(mode=0o711)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=711", "t", str(disk)], check=False)
    if mounted.returncode:
        disk.rmdir()
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "tasks").mkdir(mode=0o711)
        trees = GitTrees(disk, IDS)
        place = trees.place("t", machine.slot)
        base = await trees.create(place, FilesRepo(FILES))
        ran = await machine.shell(place, "head -c 3000000 /dev/urandom > big; echo $?")
        refused = await replace_trees(machine, trees).snapshot(place, 1, base.commit)
        assert isinstance(refused, TreeRefused), (ran, refused)
        assert refused.code == "disk_full"
        await trees.restore(place, base.tree)
        assert (await replace_trees(machine, trees).snapshot(place, 2, base.commit)).tree == base.tree
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
        disk.rmdir()


def test_no_git_is_said_clearly(machine, monkeypatch):
    monkeypatch.setattr(git_module.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Exception, match="git_not_found"):
        GitTrees(machine.state, IDS)
