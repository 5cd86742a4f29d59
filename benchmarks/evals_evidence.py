"""How long the check of an evidence bundle takes: bytes, chain, signature, completeness and all numbers once more.

Reads no store; the bundle is that of a paired run of 10,000 cases.
"""

import statistics
import sys
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.record import record
from interlock.evals.domain.evidence import Signer, bundle, verify_bundle
from interlock.evals.domain.results import BASELINE, CANDIDATE, Result

CASES = 10_000
ROUNDS = 5
ANSWER = {"text": "Cards take three to five working days, counted from the day on which the parcel is back. " * 2}


def results() -> list[Result]:
    """Return two arms of results, one in fifty of them failed."""
    return [
        Result(f"case-{number:05}", arm, 0, "fail" if number % 50 == 0 else "pass", None, "0" * 64, ANSWER, None, ())
        for number in range(CASES)
        for arm in (CANDIDATE, BASELINE)
    ]


def main() -> int:
    key = Ed25519PrivateKey.generate()
    signer = Signer("key_1", key.public_key().public_bytes_raw(), key.sign)
    header = {"run_id": "run_1", "expected": 2 * CASES, "seed": 0}
    content = bundle(header, results(), signer)
    spent = []
    for _ in range(ROUNDS):
        began = perf_counter()
        found = verify_bundle(content, signer.public_key)
        spent.append(perf_counter() - began)
        assert found.ok, found
    taken = statistics.median(spent)
    print(f"{2 * CASES} samples, {len(content) / 1e6:.1f} MB: verified in {taken:.2f} s, goal <= 3")
    return 0 if record("evals_evidence verify 20,000 samples", taken, "s", "lower", 3.0) else 1


if __name__ == "__main__":
    sys.exit(main())
