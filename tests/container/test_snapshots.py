from __future__ import annotations

import asyncio
import errno
from datetime import timedelta
from typing import Any

import pytest

from reactstate import (
    ChangeType,
    DecodeError,
    ManualClock,
    ReadOnlyError,
    SnapshotNotFoundError,
    State,
    StateConfig,
    StateValidationError,
    StorageError,
)


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


async def settled(tally: Any) -> None:
    while busy := tally._tasks - {tally._following}:
        await asyncio.gather(*busy)


async def test_a_snapshot_is_restored_as_a_new_version(place):
    clock = ManualClock()
    async with place.open(Tally(), clock=clock) as tally:
        await tally.update(add)
        info = await tally.snapshot("before-sale")
        assert (info.name, info.version, info.automatic, info.created_at) == (
            "before-sale",
            2,
            False,
            tally.current.timestamp,
        )
        assert "before-sale" in repr(info)
        await tally.update(add)
        made = await tally.restore(info.id, actor="ada", tags={"t": 1})
        assert (made.version, made.state.n) == (4, 1)
        change = tally.history[-1]
        assert (change.change_type, change.action, change.actor, change.tags) == (
            ChangeType.ROLLBACK,
            "restore",
            "ada",
            {"t": 1},
        )
        await tally.restore(info.id)
        assert tally.version == 4
        await tally.undo()
        assert tally.state.n == 2
        await tally.delete()
        await tally.restore(info.id)
        assert tally.state.n == 1


async def test_snapshots_survive_a_restart_and_a_power_cut(disk):
    async with disk.open(Tally()) as tally:
        infos = [await tally.snapshot(f"number {n}") for n in range(3)]
        await tally.update(add)
        disk.crash("lost")
    async with disk.open(Tally) as tally:
        assert [info.id for info in await tally.list_snapshots()] == [info.id for info in infos]
        await tally.restore(infos[1].id)
        assert tally.state.n == 0
        assert await tally.delete_snapshot(infos[1].id)
        assert not await tally.delete_snapshot(infos[1].id)
        assert [info.name for info in await tally.list_snapshots()] == ["number 0", "number 2"]


@pytest.mark.parametrize("wrong", ["../../etc/passwd", "", "0" * 32, "/etc/passwd", "state", None, 5, b"x"])
async def test_an_id_that_no_snapshot_has_leads_nowhere(place, wrong):
    async with place.open(Tally()) as tally:
        with pytest.raises(SnapshotNotFoundError):
            await tally.restore(wrong)
        assert not await tally.delete_snapshot(wrong)


@pytest.mark.parametrize("wrong", ["x" * 201, "a\nb", "\ud800", 5, None])
async def test_a_name_that_could_not_be_shown_is_refused(place, wrong):
    async with place.open(Tally()) as tally:
        with pytest.raises(StateValidationError):
            await tally.snapshot(wrong)


async def test_snapshots_are_taken_by_themselves_every_so_many_versions(place):
    async with place.open(Tally(), config=StateConfig(snapshot_interval=3, max_snapshots=2)) as tally:
        named = await tally.snapshot("mine")
        for _ in range(12):
            await tally.update(add)
            await settled(tally)
        infos = await tally.list_snapshots()
        assert [(info.version, info.automatic) for info in infos] == [(1, False), (9, True), (12, True)]
        await tally.restore(infos[1].id)
        assert tally.state.n == 8
        await tally.restore(named.id)


async def test_snapshots_are_taken_by_themselves_every_so_much_time(place):
    clock = ManualClock()
    config = StateConfig(snapshot_interval=timedelta(minutes=1), max_snapshots=2)
    async with place.open(Tally(), config=config, clock=clock) as tally:
        for _ in range(10):
            clock.advance(25)
            await tally.update(add)
            await settled(tally)
        assert [info.version for info in await tally.list_snapshots()] == [7, 10]
        await tally.delete()


async def test_a_snapshot_that_cannot_be_written_is_none(disk, caplog):
    async with disk.open(Tally(), config=StateConfig(snapshot_interval=2)) as tally:
        for operation in ("rename", "pwrite"):
            disk.files.fail(operation, error=errno.ENOSPC)
            with pytest.raises(StorageError):
                await tally.snapshot()
        disk.files.fail("rename", nth=2, error=errno.ENOSPC)
        with pytest.raises(StorageError):
            await tally.snapshot()
        assert await tally.list_snapshots() == []
        disk.files.fail("rename", error=errno.ENOSPC)
        await tally.update(add)
        await settled(tally)
        assert "snapshot of version 2" in caplog.text
        assert await tally.list_snapshots() == []


async def test_closing_waits_for_a_snapshot_that_is_being_taken(disk):
    async with disk.open(Tally(), config=StateConfig(snapshot_interval=2)) as tally:
        await tally.update(add)
    async with disk.open(Tally) as tally:
        assert [info.version for info in await tally.list_snapshots()] == [2]


async def test_damaged_snapshots_are_typed_errors(disk):
    async with disk.open(Tally()) as tally:
        info = await tally.snapshot("x")
        await tally._persistence.put_blob(f"snapshots/{info.id}/state", b"damaged")
        with pytest.raises(DecodeError):
            await tally.restore(info.id)
        await tally._persistence.put_blob(f"snapshots/{info.id}/info", b"{}")
        with pytest.raises(DecodeError):
            await tally.list_snapshots()


async def test_a_read_only_container_lists_snapshots_and_takes_none(disk):
    async with disk.open(Tally()) as tally:
        info = await tally.snapshot("x")
        async with disk.open(Tally, read_only=True) as reader:
            assert [one.id for one in await reader.list_snapshots()] == [info.id]
            for verb in (reader.snapshot, lambda: reader.restore(info.id), lambda: reader.delete_snapshot(info.id)):
                with pytest.raises(ReadOnlyError):
                    verb()
