"""Evidence bundles: what is whole verifies down to the statistic, and a changed byte is found with its line."""

import base64
import json
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.evals.domain.canonical import canonical
from interlock.evals.domain.evidence import DOMAIN, Signer, bundle, verify_bundle
from interlock.evals.domain.results import Result, numbers_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
SIGNER = Signer("vk_1", KEY.public_key().public_bytes_raw(), KEY.sign)


def result(number, arm, outcome, epoch=0):
    return Result(f"k{number}", arm, epoch, outcome, None, "ab" * 32, {"text": f"answer {number}"}, None, ())


RESULTS = [
    result(number, arm, "fail" if arm == "candidate" and number % 4 == 0 else "pass")
    for number in range(40)
    for arm in ("candidate", "baseline")
]
HEADER = {"run_id": "run_1", "expected": len(RESULTS), "seed": 0, "suite_digest": "sha256:aa"}
WHOLE = bundle(HEADER, RESULTS, SIGNER)


def test_a_whole_bundle_verifies_and_gives_its_numbers():
    found = verify_bundle(WHOLE, SIGNER.public_key)
    assert (found.ok, found.lines) == (True, 82)
    assert found.numbers == numbers_of(RESULTS)
    assert found.numbers["paired"]["only_baseline"] == 10


def test_every_changed_byte_is_found_and_its_line_named():
    rng = random.Random(11)
    for _ in range(400):
        at = rng.randrange(len(WHOLE) - 1)
        changed = bytearray(WHOLE)
        changed[at] ^= rng.randrange(1, 256)
        found = verify_bundle(bytes(changed))
        assert not found.ok
        assert found.line == WHOLE[:at].count(b"\n") + 1


@pytest.mark.parametrize("gone", [0, 1, 40, 81])
def test_a_line_that_is_gone_is_missed(gone):
    lines = WHOLE.splitlines(keepends=True)
    assert not verify_bundle(b"".join(lines[:gone] + lines[gone + 1 :])).ok


def test_nothing_at_all_is_no_evidence():
    assert not verify_bundle(b"").ok
    assert not verify_bundle(b"\n").ok
    assert not verify_bundle(b"[]\n").ok


def test_another_key_did_not_sign_it():
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    found = verify_bundle(WHOLE, other)
    assert (found.ok, found.code, found.line) == (False, "signature_invalid", 82)


def test_a_signer_who_drops_what_failed_is_found_by_its_manifest():
    kept = [each for each in RESULTS if each.outcome == "pass"]
    found = verify_bundle(bundle(HEADER, kept, SIGNER))
    assert (found.ok, found.code) == (False, "incomplete")


def test_a_signer_who_states_other_numbers_is_found_by_the_samples():
    other = [replace(each, outcome="pass") for each in RESULTS]
    lines = bundle(HEADER, RESULTS, SIGNER).splitlines()
    seal = json.loads(lines[-1])
    body = {name: each for name, each in seal.items() if name != "signature"}
    body["numbers"] = json.loads(canonical(numbers_of(other)))
    signature = base64.b64encode(KEY.sign(DOMAIN + canonical(body))).decode()
    forged = b"\n".join([*lines[:-1], canonical({**body, "signature": signature})]) + b"\n"
    found = verify_bundle(forged, SIGNER.public_key)
    assert (found.ok, found.code) == (False, "numbers_differ")
