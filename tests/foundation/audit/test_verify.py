"""Every attack on a chain that platform page `Tests`, audit, names: found, and the first bad seq named."""

import asyncio
import hashlib

import pytest

from interlock.foundation.audit import AuditReader, CheckpointFile, CheckpointKey, CheckpointKeys
from interlock.foundation.audit.log import SQL, event_of
from tests.support.store import make_tenant, scope_of

COLUMNS = {
    "at_us": "at_us + 1",
    "actor": 'actor || \'{"id": "usr_x"}\'',
    "action": "action || 'x'",
    "target_kind": "target_kind || 'x'",
    "target_id": "target_id || 'x'",
    "outcome": "outcome || 'x'",
    "reason": "'x'",
    "request_id": "NULL",
    "detail": "detail || '{\"x\": 1}'",
    "prev_hash": "set_byte(prev_hash, 0, get_byte(prev_hash, 0) # 1)",
    "hash": "set_byte(hash, 31, get_byte(hash, 31) # 1)",
}


def found(verdict):
    assert not verdict["ok"]
    return verdict["first_bad_seq"], verdict["code"]


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_flipped_value_in_any_column_is_found(chain, intruder, column):
    await chain.append(7)
    await intruder.execute(
        f"UPDATE audit_events SET {column} = {COLUMNS[column]} WHERE organization_id = $1 AND seq = 4",
        chain.scope.organization_id,
    )
    assert found(await chain.verify()) == (4, "hash_mismatch")


@pytest.mark.parametrize("seq", [1, 4, 7])
async def test_a_deleted_row_is_found(chain, intruder, seq):
    await chain.append(7)
    await intruder.execute(
        "DELETE FROM audit_events WHERE organization_id = $1 AND seq = $2", chain.scope.organization_id, seq
    )
    assert found(await chain.verify()) == (seq, "tail_truncated" if seq == 7 else "gap")


async def test_a_row_moved_to_another_number_is_found(chain, intruder):
    await chain.append(7)
    await intruder.execute(
        "UPDATE audit_events SET seq = 20 WHERE organization_id = $1 AND seq = 5", chain.scope.organization_id
    )
    assert found(await chain.verify())[0] == 5


async def test_swapped_rows_are_found(chain, intruder):
    await chain.append(7)
    await intruder.execute(
        "UPDATE audit_events SET seq = 8 - seq WHERE organization_id = $1 AND seq IN (3, 5)",
        chain.scope.organization_id,
    )
    assert found(await chain.verify()) == (3, "hash_mismatch")


async def test_a_row_slipped_in_is_found(chain, intruder):
    await chain.append(7)
    await intruder.execute(
        "INSERT INTO audit_events SELECT organization_id, seq, at_us + 1, actor, 'forged', target_kind, target_id,"
        " outcome, reason, request_id, detail, prev_hash, hash FROM audit_events"
        " WHERE organization_id = $1 AND seq = 3",
        chain.scope.organization_id,
    )
    assert found(await chain.verify()) == (3, "hash_mismatch")


async def test_a_row_appended_without_its_head_is_found(chain, intruder):
    await chain.append(2)
    await intruder.execute(
        "INSERT INTO audit_events SELECT organization_id, 3, at_us, actor, action, target_kind, target_id,"
        " outcome, reason, request_id, detail, hash, hash FROM audit_events WHERE organization_id = $1 AND seq = 2",
        chain.scope.organization_id,
    )
    assert found(await chain.verify()) == (3, "head_mismatch")


async def test_a_head_with_another_hash_is_found(chain, intruder):
    await chain.append(3)
    await intruder.execute(
        "UPDATE audit_heads SET hash = sha256('x') WHERE organization_id = $1", chain.scope.organization_id
    )
    assert found(await chain.verify()) == (3, "head_mismatch")


async def test_a_lost_head_is_found(chain, intruder):
    await chain.append(3)
    await intruder.execute("DELETE FROM audit_heads WHERE organization_id = $1", chain.scope.organization_id)
    assert found(await chain.verify()) == (1, "head_mismatch")


async def cut_with_rewound_head(chain, intruder, keep):
    organization_id = chain.scope.organization_id
    await intruder.execute("DELETE FROM audit_events WHERE organization_id = $1 AND seq > $2", organization_id, keep)
    await intruder.execute(
        "UPDATE audit_heads SET seq = $2, hash = (SELECT hash FROM audit_events WHERE organization_id = $1"
        " AND seq = $2) WHERE organization_id = $1",
        organization_id,
        keep,
    )


async def test_a_cut_tail_with_the_head_rewound_is_found_by_the_checkpoint(chain, intruder):
    await chain.append(7)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    await cut_with_rewound_head(chain, intruder, keep=4)
    assert found(await chain.verify()) == (5, "tail_truncated")


async def test_a_cut_tail_is_found_by_the_file_when_the_stored_checkpoint_went_with_it(chain, intruder):
    await chain.append(7)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    await cut_with_rewound_head(chain, intruder, keep=4)
    await intruder.execute("DELETE FROM audit_checkpoints WHERE organization_id = $1", chain.scope.organization_id)
    assert found(await chain.verify()) == (5, "tail_truncated")


async def test_a_cut_tail_is_found_by_a_copy_elsewhere_when_the_file_went_too(chain, intruder, key, tmp_path):
    await chain.append(7)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    elsewhere = CheckpointFile(chain.path).read()
    await cut_with_rewound_head(chain, intruder, keep=4)
    await intruder.execute("DELETE FROM audit_checkpoints WHERE organization_id = $1", chain.scope.organization_id)
    chain.path.unlink()
    assert (await chain.verify())["ok"], "nothing left knows better; this is why copies belong off the machine"
    assert found(await chain.verify(extra=elsewhere)) == (5, "tail_truncated")


async def test_a_whole_chain_that_vanished_is_found(chain, intruder):
    await chain.append(3)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    for table in ("audit_events", "audit_heads", "audit_checkpoints"):
        await intruder.execute(f"DELETE FROM {table} WHERE organization_id = $1", chain.scope.organization_id)
    verdict = (await chain.reader.verify()).public()
    assert found(verdict) == (1, "tail_truncated")


async def test_a_chain_rewritten_without_the_key_is_found(chain, intruder):
    """The intruder changes row 4 and computes every later hash and the head anew."""
    await chain.append(7)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    organization_id = chain.scope.organization_id
    await intruder.execute(
        "UPDATE audit_events SET reason = 'forged' WHERE organization_id = $1 AND seq = 4", organization_id
    )
    rows = await intruder.fetch(SQL.walked.sql, organization_id, 0, 0, 100, 100)
    prev_hash = hashlib.sha256(organization_id.bytes).digest()
    for row in rows:
        fresh = event_of(row).expected_hash(prev_hash)
        await intruder.execute(
            "UPDATE audit_events SET prev_hash = $3, hash = $4 WHERE organization_id = $1 AND seq = $2",
            organization_id, row["seq"], prev_hash, fresh,
        )  # fmt: skip
        prev_hash = fresh
    await intruder.execute("UPDATE audit_heads SET hash = $2 WHERE organization_id = $1", organization_id, prev_hash)
    assert found(await chain.verify()) == (7, "checkpoint_mismatch")


async def test_a_checkpoint_by_another_key_is_found(chain, store, scope):
    await chain.append(3)
    stranger = CheckpointKey(bytes(32))
    await chain.checkpointer.checkpoint(scope.organization_id)
    chain.file.append([stranger.sign(scope.organization_id, 2, bytes(32), 1)])
    assert found(await chain.verify()) == (2, "signature_invalid")


@pytest.mark.parametrize("change", ["hash = sha256('x')", "at_us = at_us + 1", "signature = sha512('x')", "seq = 2"])
async def test_a_changed_stored_checkpoint_is_found(chain, intruder, change):
    await chain.append(3)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    await intruder.execute(
        f"UPDATE audit_checkpoints SET {change} WHERE organization_id = $1", chain.scope.organization_id
    )
    assert found(await chain.verify())[1] == "signature_invalid"


async def test_a_garbled_checkpoint_file_is_a_finding_with_its_line(chain):
    await chain.append(3)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    with chain.path.open("a") as file:
        file.write("{}\n")
    verdict = await chain.verify()
    assert verdict["code"] == "signature_invalid"
    assert "checkpoints.jsonl:2" in verdict["detail"]


async def test_verify_over_all_organizations_counts_them(chain, store, key, tmp_path):
    await chain.append(2)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    reader = AuditReader(store, CheckpointKeys([key.public]), CheckpointFile(tmp_path / "none.jsonl"))
    verdict = await reader.verify()
    assert verdict.finding is None
    assert verdict.organizations >= 1
    assert verdict.events >= 2
    other = scope_of(*await make_tenant(store))
    assert (await reader.verify(other.organization_id)).public() == {
        "ok": True, "events": 0, "organizations": 1, "checkpoints": 0,
    }  # fmt: skip


async def test_appends_during_a_verification_are_no_finding(chain):
    await chain.append(5)
    stop = asyncio.Event()

    async def write():
        while not stop.is_set():
            await chain.append()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(20):
            assert (await chain.verify())["ok"]
            await chain.checkpointer.run_once()
        stop.set()
