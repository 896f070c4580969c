"""What attacks on checkpoints broke, each by the guarantee that it broke."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.checkpoints import CheckpointCoordinator, CheckpointOptions
from reactstate.errors import SettingsError
from reactstate.kv.memory import MemoryStore


async def test_a_checkpoint_that_was_removed_meanwhile_is_passed_over(tmp_path):
    async with MemoryStore() as store:
        coordinator = CheckpointCoordinator(store, timedelta(hours=1), CheckpointOptions(tmp_path))
        await store.put("k", b"1")
        kept = await coordinator.create_checkpoint()
        # as it looks to the one that listed it before another coordinator removed it
        (tmp_path / "29990101T000000.000000Z.checkpoint").symlink_to(tmp_path / "gone")
        assert await coordinator.restore_latest(replace=True) == kept
        assert [info.id for info in await coordinator.list_checkpoints()] == [kept]


def test_a_directory_that_cannot_be_one_is_refused_at_once():
    with pytest.raises(SettingsError):
        CheckpointOptions("check\ud800points")


async def test_a_second_shutdown_returns_after_the_first_has_ended(tmp_path):
    store = MemoryStore()
    await store.put("key", b"value")
    coordinator = CheckpointCoordinator(store, timedelta(hours=1), CheckpointOptions(checkpoint_dir=tmp_path))
    first = asyncio.ensure_future(coordinator.shutdown())
    await asyncio.sleep(0)
    await coordinator.shutdown()
    await store.aclose()
    await first
    assert coordinator.stats().checkpoints_created == 1
