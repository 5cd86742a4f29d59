"""Checkpoints: when they are made, where they are kept, who can make them."""

import asyncio
import json

import pytest

from interlock.foundation.audit import (
    AuditConfig,
    Checkpointer,
    CheckpointKeys,
    MalformedCheckpointError,
    parse_checkpoint,
)
from interlock.foundation.clock import SystemClock


async def test_a_checkpoint_is_stored_and_written_to_the_file(chain, key):
    await chain.append(2)
    (made,) = await chain.checkpointer.checkpoint(chain.scope.organization_id)
    assert made.seq == 2
    assert await chain.reader.checkpoints(chain.scope.organization_id) == [made]
    assert chain.file.read() == [made]
    assert chain.path.stat().st_mode & 0o777 == 0o600
    assert CheckpointKeys([key.public]).is_signed(made)
    assert (await chain.verify())["checkpoints"] == 1


async def test_a_chain_that_did_not_grow_is_not_signed_again(chain):
    await chain.append(2)
    assert len(await chain.checkpointer.checkpoint(chain.scope.organization_id)) == 1
    assert await chain.checkpointer.checkpoint(chain.scope.organization_id) == []


async def test_growth_is_signed_by_count_and_not_before(chain, scope, key):
    """The interval of 15 minutes has not passed; the count of four events decides."""
    await chain.append(1)
    await chain.checkpointer.checkpoint(scope.organization_id)

    async def signed():
        made = await chain.checkpointer.run_once()
        return [each.seq for each in made if each.organization_id == scope.organization_id]

    await chain.append(3)
    assert await signed() == []
    await chain.append(1)
    assert await signed() == [5]


async def test_growth_is_signed_by_age(chain, scope, key):
    class Later(SystemClock):
        def now_us(self):
            return super().now_us() + 901 * 1_000_000

    await chain.append(1)
    await chain.checkpointer.checkpoint(scope.organization_id)
    await chain.append(1)
    later = Checkpointer(chain.store, Later(), key, chain.file, AuditConfig())
    made = await later.run_once()
    assert [each.seq for each in made if each.organization_id == scope.organization_id] == [2]


async def test_the_loop_signs_until_it_is_cancelled(chain, scope):
    await chain.append(1)
    task = asyncio.ensure_future(chain.checkpointer.run())
    async with asyncio.timeout(240):
        while not any(each.organization_id == scope.organization_id for each in chain.file.read()):
            await asyncio.sleep(0.02)
        # It counts what it wrote after all of it is written, other tests' organizations included.
        while chain.checkpointer.statistics()["written"] < 1:
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("field", ["organization_id", "seq", "hash", "at_us", "key_id"])
async def test_every_field_is_signed(chain, key, field):
    await chain.append(2)
    (made,) = await chain.checkpointer.checkpoint(chain.scope.organization_id)
    told = made.public()
    changed = {
        "organization_id": "org_" + "0" * 26,
        "seq": 1,
        "hash": "00" * 32,
        "at_us": 1,
        "key_id": "0" * 16,
    }
    told[field] = changed[field]
    assert not CheckpointKeys([key.public]).is_signed(parse_checkpoint(json.dumps(told), "x:1"))


@pytest.mark.parametrize("line", ["", "{}", "[]", "1", '{"organization_id": 1}', "\x00", '{"seq":'])
def test_what_is_not_a_checkpoint_is_refused(line):
    with pytest.raises(MalformedCheckpointError):
        parse_checkpoint(line, "x:1")
