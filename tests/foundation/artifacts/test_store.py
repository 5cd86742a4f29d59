"""Large bodies lie under plain keys, whole or not at all."""

import pytest

from interlock.foundation.artifacts import ArtifactsConfig, ArtifactStore, key_of
from interlock.foundation.errors import InterlockError


async def test_what_was_put_is_read_back_listed_and_gone_after_its_deletion(tmp_path):
    artifacts = ArtifactStore(tmp_path / "artifacts")
    key = key_of("agents", "org_1", "task_1", "00000001.bundle")
    await artifacts.put(key, b"one")
    await artifacts.put(key, b"two")
    assert await artifacts.get(key) == b"two"
    assert [each async for each in artifacts.keys("agents/org_1/")] == [key]
    await artifacts.delete(key)
    await artifacts.delete(key)
    assert await artifacts.get(key) is None
    assert [each async for each in artifacts.keys("agents/org_1/")] == []


async def test_a_body_over_the_bound_is_refused_and_leaves_what_was_there(tmp_path):
    artifacts = ArtifactStore(tmp_path, ArtifactsConfig(object_bytes_max=1 << 16))
    await artifacts.put("a/b", b"kept")
    with pytest.raises(InterlockError) as refused:
        await artifacts.put("a/b", b"x" * ((1 << 16) + 1))
    assert refused.value.code == "body_too_large"
    assert await artifacts.get("a/b") == b"kept"


async def test_a_folder_that_cannot_be_written_is_an_outage_not_a_fault(tmp_path):
    artifacts = ArtifactStore(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InterlockError) as refused:
        await artifacts.put("file/below", b"x")
    assert refused.value.code == "store_unavailable"


@pytest.mark.parametrize("part", ["..", "a/b", "", " ", ".hidden", "a\x00", "a" * 201])
def test_a_key_is_made_of_plain_parts(part):
    with pytest.raises(ValueError, match="artifact key"):
        key_of("org_1", part)
