"""Verify an exported audit chain with the standard library alone: `python verify_audit.py FILE [CHECKPOINTS]`.

FILE is what `interlock audit export -o FILE` wrote. Every hash is computed anew from the events, and compared with
every checkpoint in FILE and in a copy of `checkpoints.jsonl` that you kept elsewhere. It imports none of Interlock.
The standard library has no Ed25519: that a checkpoint was signed by the platform's key is checked by
`interlock audit verify --checkpoints CHECKPOINTS`; a copy that you kept yourself proves as much without it.
"""

import hashlib
import json
import sys
from pathlib import Path

DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def verify(lines: list[str], kept: tuple[str, ...] | list[str] = ()) -> int:
    """Return the number of events. Raises `ValueError` that names the first bad seq."""
    hashes, checkpoints, prev_hash = {}, [json.loads(line) for line in kept if line.strip()], None
    for line in (json.loads(text) for text in lines if text.strip()):
        if "checkpoint" in line:
            checkpoints.append(line["checkpoint"])
            continue
        event, seq = line["event"], len(hashes) + 1
        if prev_hash is None:
            number = sum(DIGITS.index(char) << 5 * n for n, char in enumerate(reversed(event["organization_id"][4:])))
            organization, prev_hash = event["organization_id"], hashlib.sha256(number.to_bytes(16, "big")).digest()
        text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        own_hash = hashlib.sha256(b"interlock-audit-v1\x00" + prev_hash + text).digest()
        if (event["seq"], event["organization_id"]) != (seq, organization):
            raise ValueError(f"seq {seq}: gap, the next event is {event['seq']}")
        if (line["prev_hash"], line["hash"]) != (prev_hash.hex(), own_hash.hex()):
            raise ValueError(f"seq {seq}: hash_mismatch")
        hashes[seq], prev_hash = line["hash"], own_hash
    for each in checkpoints:
        if hashes and each["organization_id"] == organization and hashes.get(each["seq"]) != each["hash"]:
            cut = each["seq"] > len(hashes)
            raise ValueError(
                f"seq {min(each['seq'], len(hashes) + 1)}: {'tail_truncated' if cut else 'checkpoint_mismatch'}"
            )
    return len(hashes)


if __name__ == "__main__":
    texts = [Path(name).read_text(encoding="utf-8").splitlines() for name in sys.argv[1:]]
    try:
        print(f"ok: {verify(*texts)} events")
    except ValueError as error:
        sys.exit(f"not ok: {error}")
