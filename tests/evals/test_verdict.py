"""Verdict tokens: what admits, and which word each forgery is refused with."""

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from interlock.contracts.gates import Admitted, TokenRefused, TokenUse, VerifyingKey
from interlock.evals.domain.canonical import canonical, digest
from interlock.evals.domain.verdict import Claims, TokenVerifier, mint
from interlock.foundation.ids import OrganizationId
from tests.support.store import IDS

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORGANIZATION = OrganizationId(IDS.new())
NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
CLAIMS = Claims("k1", ORGANIZATION, "support", "gate_1", "vdt_1", "sha256:aa", 5.0, NOW, NOW + HOUR)
KEYS = {"k1": VerifyingKey("k1", ORGANIZATION, KEY.public_key().public_bytes_raw(), NOW + 10 * HOUR, is_revoked=False)}
USE = TokenUse(ORGANIZATION, "support", "sha256:aa", 5.0, NOW + 1)


def verify(token, keys=KEYS, **use):
    found = TokenVerifier().verify(token, replace(USE, **use), keys)
    return found.code if isinstance(found, TokenRefused) else found


def signed(**changed):
    """A token with other claims, signed by the right key."""
    body = canonical({**CLAIMS.public(), **changed})
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (body, KEY.sign(body)))


def test_a_token_admits_its_artifact_up_to_its_weight():
    token = mint(CLAIMS, KEY.sign)
    assert verify(token) == Admitted("vdt_1", 5.0, NOW + HOUR)
    assert isinstance(verify(token, weight=1.0), Admitted)
    assert isinstance(verify(token, now_us=NOW - 50_000_000), Admitted), "clocks of two machines differ a little"


@pytest.mark.parametrize(
    ("use", "code"),
    [
        ({"organization_id": OrganizationId(IDS.new())}, "verdict_invalid"),
        ({"route": "other"}, "verdict_invalid"),
        ({"subject": "sha256:bb"}, "verdict_digest_mismatch"),
        ({"weight": 5.1}, "verdict_weight_exceeded"),
        ({"weight": float("nan")}, "verdict_weight_exceeded"),
        ({"weight": -1.0}, "verdict_weight_exceeded"),
        ({"now_us": NOW + HOUR}, "verdict_expired"),
        ({"subject": "sha256:bb", "weight": 100.0, "now_us": NOW + 2 * HOUR}, "verdict_digest_mismatch"),
        ({"weight": 100.0, "now_us": NOW + 2 * HOUR}, "verdict_weight_exceeded"),
        # A clock that stepped back makes no token younger than it is.
        ({"now_us": NOW - HOUR}, "verdict_invalid"),
    ],
)
def test_another_use_is_refused_by_the_first_thing_that_is_wrong(use, code):
    assert verify(mint(CLAIMS, KEY.sign), **use) == code


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"iss": "gateway"}, "verdict_invalid"),
        ({"decision": "fail"}, "verdict_not_pass"),
        ({"max_weight": "NaN"}, "verdict_invalid"),
        ({"max_weight": "Infinity"}, "verdict_invalid"),
        ({"expires_at": "tomorrow"}, "verdict_invalid"),
        ({"issued_at": "yesterday"}, "verdict_invalid"),
        ({"expires_at": "2030-01-01T00:00:00"}, "verdict_invalid"),
        ({"key_id": "k9"}, "verdict_invalid"),
        ({"more": 1}, "verdict_invalid"),
    ],
)
def test_signed_nonsense_admits_nothing(changed, code):
    assert verify(signed(**changed)) == code


def test_a_key_that_is_revoked_another_organizations_or_past_its_time_signs_nothing():
    token = mint(CLAIMS, KEY.sign)
    assert verify(token, {"k1": replace(KEYS["k1"], is_revoked=True)}) == "verdict_invalid"
    assert verify(token, {"k1": replace(KEYS["k1"], organization_id=OrganizationId(IDS.new()))}) == "verdict_invalid"
    assert verify(token, {"k1": replace(KEYS["k1"], not_after_us=NOW)}) == "verdict_expired"
    assert verify(token, {}) == "verdict_invalid"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_never_admitted(where, flip):
    token = bytearray(mint(CLAIMS, KEY.sign).encode())
    token[where % len(token)] ^= flip
    assert verify(token.decode("latin-1")) == "verdict_invalid"


@given(st.text(max_size=200))
def test_no_text_makes_the_check_raise(text):
    assert verify(text) == "verdict_invalid"
    assert verify(text + "." + text) == "verdict_invalid"


def test_canonical_json_has_one_form_for_one_meaning():
    assert canonical({"b": 5.0, "a": [0.05, "ü", None, True]}) == '{"a":["0.05","ü",null,true],"b":5}'.encode()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2.0, "a": 1})
    assert json.loads(canonical({"x": 1e-7})) == {"x": "1e-07"}
    with pytest.raises(TypeError):
        canonical({"x": object()})
