"""Start state on disk: believed when it is whole and ours, set aside when it is not."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.foundation.flags import Snapshot

KEY = b"k" * 32


def test_what_was_saved_is_loaded_and_what_was_never_saved_is_nothing(tmp_path):
    snapshot = Snapshot(tmp_path / "edge.snap", KEY)
    assert snapshot.load() is None
    for content in (b"", b"first", b"second" * 1_000):
        snapshot.save(content)
        assert Snapshot(tmp_path / "edge.snap", KEY).load() == content
    assert (tmp_path / "edge.snap").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["edge.snap"]


@settings(suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 400), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_sets_it_aside(tmp_path, place, bit):
    path = tmp_path / "edge.snap"
    Snapshot(path, KEY).save(b"x" * 300)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    assert Snapshot(path, KEY).load() is None
    assert not path.exists()
    assert path.with_suffix(".bad").read_bytes() == raw


@pytest.mark.parametrize("size", [0, 1, 20, 54, 200])
def test_a_file_that_was_cut_is_set_aside(tmp_path, size):
    path = tmp_path / "edge.snap"
    Snapshot(path, KEY).save(b"x" * 300)
    os.truncate(path, size)
    assert Snapshot(path, KEY).load() is None
    assert path.with_suffix(".bad").exists()


def test_the_snapshot_of_another_platform_is_not_believed(tmp_path):
    Snapshot(tmp_path / "edge.snap", b"another").save(b"content")
    assert Snapshot(tmp_path / "edge.snap", KEY).load() is None


def test_a_link_is_not_followed_when_saving(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    snapshot = Snapshot(tmp_path / "edge.snap", KEY)
    (tmp_path / f"edge.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        snapshot.save(b"content")
    assert victim.read_text() == "precious"
