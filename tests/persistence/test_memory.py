from __future__ import annotations

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import ClosedError, InvalidKeyError
from reactstate.persistence.memory import MemoryPersistence


async def test_memory_keeps_blobs_and_nothing_else(story):
    clock = ManualClock()
    persistence = MemoryPersistence(clock)
    assert await persistence.load() is None
    await persistence.append([story.record(1)], story.schema)
    await persistence.save(story.snapshot(1), keep_since=0)
    await persistence.flush()
    assert not persistence.compaction_due
    assert [record async for record in persistence.changes()] == []
    await persistence.put_blob("b", b"2")
    await persistence.put_blob("a/x", b"1")
    assert await persistence.get_blob("b") == b"2"
    assert await persistence.get_blob("c") is None
    infos = await persistence.list_blobs("a")
    assert [(info.name, info.size_bytes, info.modified_ns) for info in infos] == [("a/x", 1, clock.time_ns())]
    assert await persistence.delete_blob("b")
    assert not await persistence.delete_blob("b")
    with pytest.raises(InvalidKeyError):
        await persistence.put_blob("../x", b"")
    await persistence.aclose()
    await persistence.aclose()
    with pytest.raises(ClosedError):
        persistence.append([story.record(2)], story.schema)
    assert await MemoryPersistence().list_blobs() == []
