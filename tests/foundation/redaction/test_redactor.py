"""No secret that the redactor was told of, and none that its prefix gives away, leaves in a text."""

import base64
import json
from urllib.parse import quote, quote_plus
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.redaction import PATTERNS, RedactionConfig, Redactor, is_own_key

SECRET = b'Pa55/word+"quoted"\\~tail'
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def own_key(kind: str = "live", body: str = "A1b2C3d4" + "x" * 32) -> str:
    text = f"il_{kind}_{body}"
    number, digits = crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return text + digits


# One planted credential for each kind; built from parts, so that no scanner takes this file for a leak.
PLANTED = {
    "interlock_key": own_key(),
    "private_key": "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "aws_access_key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "aws_bedrock_key": "ABSK" + "Qm" * 60,
    "google_api_key": "AIza" + "Sy" * 17 + "Q",
    "google_oauth_token": "ya29." + "a0Af" * 8,
    "google_client_secret": "GOCSPX-" + "ab1_" * 7,
    "azure_storage_key": "AccountKey=" + "Zk" * 43 + "==",
    "azure_sas_signature": "sig=" + "Ab1" * 14 + "A%3D",
    "github_token": "ghp_" + "aB3" * 12,
    "github_fine_grained_token": "github_pat_" + "11ABC" * 8,
    "gitlab_token": "glpat-" + "aB3_" * 5,
    "slack_token": "xoxb-" + "1234567890-abcdef",
    "slack_webhook": "hooks.slack.com/services/" + "T0000/B0000/" + "X" * 24,
    "discord_webhook": "discord.com/api/webhooks/" + "1" * 18 + "/" + "w" * 68,
    "telegram_bot_token": "123456789:AA" + "b" * 33,
    "anthropic_key": "sk-ant-" + "api03-" + "x" * 40,
    "openai_key": "sk-" + "proj-" + "y" * 40,
    "stripe_key": "sk_live_" + "4eC39" * 5,
    "huggingface_token": "hf_" + "Ab" * 17,
    "package_registry_token": "npm_" + "a1B" * 12,
    "sendgrid_key": "SG." + "a" * 22 + "." + "b" * 43,
    "vault_token": "hvs." + "CAES" * 8,
    "url_password": "postgresql://bob:" + "s3cr3t-word" + "@db/x",
}  # fmt: skip


def hidden_part(kind: str) -> str:
    pattern = next(each for each in PATTERNS if each.kind == kind)
    text = PLANTED[kind]
    start = min(text.find(prefix) for prefix in pattern.prefixes if prefix in text)
    match = pattern.form.match(text, start)
    assert match is not None, kind
    return match.group(1 if pattern.form.groups else 0)


def test_there_are_twenty_five_kinds_and_each_has_a_planted_credential():
    assert len(PATTERNS) == 25
    assert {each.kind for each in PATTERNS} == set(PLANTED)


@pytest.mark.parametrize("kind", sorted(PLANTED))
@pytest.mark.parametrize("around", ["{}", "token={} and more", '{{"k":"{}"}}', "line\\n{}\\n", "a\n{}\nb"])
def test_a_planted_credential_is_found_in_any_surrounding(kind, around):
    shown = Redactor().text(around.format(PLANTED[kind]))
    assert hidden_part(kind) not in shown
    assert f"[redacted:{kind}]" in shown


def test_a_private_key_that_was_cut_off_is_hidden_to_the_end():
    shown = Redactor().text("x -----BEGIN EC PRIVATE " + "KEY-----\nMHcCAQEEIIrYSSNQ")
    assert shown == "x [redacted:private_key]"


def test_a_public_certificate_stays():
    text = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
    assert Redactor().text(text) == text


@pytest.mark.parametrize("kind", ["live", "test", "task"])
def test_only_a_key_whose_checksum_holds_is_ours(kind):
    key = own_key(kind)
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert is_own_key(key)
    assert not is_own_key(wrong)
    assert Redactor().text(wrong) == wrong


@pytest.mark.parametrize("prefix", [b"", b"u", b"us", b"user:", b"some:longer:"])
@pytest.mark.parametrize("suffix", [b"", b":x", b"-and-more"])
def test_a_known_secret_is_found_in_base64_at_any_place(prefix, suffix):
    redactor = Redactor([SECRET])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = "Basic " + encode(prefix + SECRET + suffix).decode()
        shown = redactor.text(text)
        assert "[redacted:secret]" in shown
        core = encode(SECRET).decode()[4:-4]
        assert core not in shown


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET.decode(),
        SECRET.hex(),
        SECRET.hex().upper(),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET.decode())[1:-1],
    ],
)
def test_a_known_secret_is_found_in_every_spelling(spelling):
    assert Redactor([SECRET]).text(f"a {spelling} b") == "a [redacted:secret] b"


def test_a_secret_of_raw_bytes_is_found_as_hex_and_base64():
    secret = bytes(range(200, 232))
    redactor = Redactor([secret])
    assert redactor.text(secret.hex()) == "[redacted:secret]"
    assert "[redacted:secret]" in redactor.text(base64.b64encode(secret).decode())


def test_a_secret_learnt_later_is_found_from_then_on():
    redactor = Redactor()
    assert redactor.text("hunter22-hunter22") == "hunter22-hunter22"
    redactor.learn([b"hunter22-hunter22"])
    assert redactor.text("hunter22-hunter22") == "[redacted:secret]"


def test_a_secret_too_short_to_tell_is_not_looked_for():
    assert Redactor([b"abc"]).text("abc abc") == "abc abc"


def test_overlapping_secrets_leave_nothing_of_either():
    redactor = Redactor([b"first-secret-value", b"secret-value-second"])
    assert redactor.text("first-secret-value-second") == "[redacted:secret]"


def test_structures_are_redacted_at_keys_and_leaves():
    redactor = Redactor([SECRET])
    secret = SECRET.decode()
    value = {secret: [1, None, {"deep": (secret, True)}], "raw": SECRET}
    assert redactor.value(value) == {
        "[redacted:secret]": [1, None, {"deep": ("[redacted:secret]", True)}],
        "raw": "[redacted:secret]",
    }


def test_an_object_too_deep_is_not_shown_at_all():
    value: list = ["bottom"]
    for _ in range(10):
        value = [value]
    shown = Redactor(config=RedactionConfig(nesting_max=4)).value(value)
    assert "bottom" not in str(shown)


def test_each_hit_is_counted_by_kind():
    kinds: list[str] = []
    Redactor([SECRET], on_hit=kinds.append).text(SECRET.decode() + " " + PLANTED["aws_access_key"])
    assert kinds == ["secret", "aws_access_key"]


def test_what_was_redacted_once_stays_as_it_is():
    redactor = Redactor([SECRET])
    once = redactor.text(" ".join(PLANTED.values()) + SECRET.decode())
    assert redactor.text(once) == once


_PIECES = st.lists(
    st.one_of(
        st.sampled_from([*PLANTED.values(), SECRET.decode(), SECRET.hex(), base64.b64encode(b"u:" + SECRET).decode()]),
        st.sampled_from([*(prefix for each in PATTERNS for prefix in each.prefixes), "://a:b", "@", "-----END "]),
        st.text(alphabet='ab :/@.-_=\n"eyJsk', max_size=30),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=_PIECES, cuts=st.lists(st.integers(0, 2_000), max_size=12))
def test_a_stream_shows_the_same_however_it_is_cut(text, cuts):
    redactor = Redactor([SECRET])
    stream = redactor.stream()
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert "".join([*map(stream.feed, pieces), stream.finish()]) == redactor.text(text)


def test_a_stream_gives_out_text_while_it_runs_and_holds_a_bounded_rest():
    stream = Redactor([SECRET]).stream()
    shown = sum(len(stream.feed("plain words, " * 100)) for _ in range(50))
    assert shown > 50 * 1_300 - 500


def test_a_stream_never_holds_more_than_its_bound():
    stream = Redactor(config=RedactionConfig(hold_chars_max=1_024)).stream()
    shown = stream.feed("eyJ" + "a" * 100)
    for _ in range(100):
        shown += stream.feed("a" * 100)
    assert len(shown) > 100 * 100 - 1_024 - 200
