"""Envelopes: what opens where, and what opens nowhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.clock import SystemDice
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.secrets import Envelope, MasterKeyFile, MasterKeys, Place, SecretBox, SecretUnreadableError
from tests.support.store import IDS

DICE = SystemDice()
RING = MasterKeys.fresh(DICE)
PLACE = Place(IDS.new(), "secrets_envelopes", IDS.new(), "ciphertext")


def full(ring=RING):
    return SecretBox(DICE, lambda: ring.public, lambda: ring)


@given(st.binary(min_size=0, max_size=4_000))
def test_what_was_sealed_opens(value):
    assert full().open(PLACE, full().seal(PLACE, value)) == value


def test_the_public_half_seals_and_cannot_open():
    control = SecretBox(DICE, lambda: RING.public)
    envelope = control.seal(PLACE, b"provider key")
    with pytest.raises(SecretUnreadableError):
        control.open(PLACE, envelope)
    assert full().open(PLACE, envelope) == b"provider key"


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, organization_id=IDS.new()),
        replace(PLACE, table="other_table"),
        replace(PLACE, row=IDS.new()),
        replace(PLACE, column="other_column"),
    ],
)
def test_an_envelope_opens_at_its_own_place_only(elsewhere):
    envelope = full().seal(PLACE, b"value")
    with pytest.raises(SecretUnreadableError):
        full().open(elsewhere, envelope)
    with pytest.raises(SecretUnreadableError):
        full().rewrap(elsewhere, envelope)


def test_a_ciphertext_under_another_rows_key_does_not_open():
    """Not even with its wrapped key taken along one half at a time."""
    other = replace(PLACE, row=IDS.new())
    mine, theirs = full().seal(PLACE, b"mine"), full().seal(other, b"theirs")
    for mixed in (
        Envelope(theirs.ciphertext, mine.wrapped_key, mine.kek_id),
        Envelope(mine.ciphertext, theirs.wrapped_key, theirs.kek_id),
    ):
        with pytest.raises(SecretUnreadableError):
            full().open(PLACE, mixed)


@given(st.data())
def test_any_changed_byte_is_noticed(data):
    envelope = full().seal(PLACE, b"value")
    part = data.draw(st.sampled_from(["ciphertext", "wrapped_key"]))
    raw = bytearray(getattr(envelope, part))
    position = data.draw(st.integers(0, len(raw) - 1))
    # RFC 7748 ignores the top bit of a public key; the salt binds it all the same.
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SecretUnreadableError):
        full().open(PLACE, replace(envelope, **{part: bytes(raw)}))


@pytest.mark.parametrize("cut", [0, 5, 12, 31])
def test_a_cut_envelope_is_refused_and_not_a_crash(cut):
    envelope = full().seal(PLACE, b"value")
    for part in ("ciphertext", "wrapped_key"):
        with pytest.raises(SecretUnreadableError):
            full().open(PLACE, replace(envelope, **{part: getattr(envelope, part)[:cut]}))


def test_a_rewrapped_envelope_opens_with_the_new_key_and_not_with_the_old_one():
    newer = RING.with_new(DICE)
    envelope = full().seal(PLACE, b"value")
    fresh = full(newer).rewrap(PLACE, envelope)
    assert fresh.ciphertext == envelope.ciphertext
    assert fresh.kek_id == newer.public.kek_id != envelope.kek_id
    only_new = MasterKeys(newer.secrets[:1])
    assert full(only_new).open(PLACE, fresh) == b"value"
    with pytest.raises(SecretUnreadableError):
        full(RING).open(PLACE, fresh)
    with pytest.raises(SecretUnreadableError):
        full(newer).open(PLACE, replace(fresh, kek_id=envelope.kek_id))


def test_a_process_that_missed_a_new_key_reads_the_ring_again(tmp_path):
    file = MasterKeyFile(tmp_path / "master.key")
    file.ensure(DICE)
    edge = SecretBox(DICE, file.read_public, file.read)
    file.write(file.read().with_new(DICE))
    envelope = SecretBox(DICE, file.read_public).seal(PLACE, b"value")
    assert edge.open(PLACE, envelope) == b"value"


def test_the_key_files_are_private_and_survive_a_second_start(tmp_path):
    file = MasterKeyFile(tmp_path / "master.key")
    file.ensure(DICE)
    first = file.read()
    file.ensure(DICE)
    assert file.read() == first
    assert file.read_public() == first.public
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    assert first.secrets[0].hex() not in repr(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["master.key", "master.pub"]


@pytest.mark.parametrize("content", [b"", b"x", b"AAAA\n", b"\x00" * 32])
def test_a_broken_ring_is_named(tmp_path, content):
    (tmp_path / "master.key").write_bytes(content)
    with pytest.raises(BrokenWorldError) as broken:
        MasterKeyFile(tmp_path / "master.key").read()
    assert broken.value.code == "master_key_invalid"


def test_old_keys_leave_the_ring_when_nothing_needs_them():
    ring = RING.with_new(DICE).with_new(DICE).with_new(DICE)
    oldest = MasterKeys(ring.secrets[3:]).public.kek_id
    assert ring.without_unused([]).secrets == ring.secrets[:2]
    assert ring.without_unused([oldest]).secrets == (*ring.secrets[:2], ring.secrets[3])
