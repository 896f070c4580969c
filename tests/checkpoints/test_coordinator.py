from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from reactstate.checkpoints import CheckpointCoordinator, CheckpointOptions, CheckpointStats
from reactstate.checkpoints.directory import CheckpointDirectory
from reactstate.clock import ManualClock
from reactstate.errors import (
    CheckpointNotFoundError,
    ClosedError,
    ConflictError,
    CorruptionError,
    SettingsError,
    StorageError,
    UnsupportedError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability
from reactstate.kv.urls import open_store

HOUR = timedelta(hours=1)


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def store(clock):
    return MemoryStore(options=StoreOptions(), clock=clock)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def coordinator(store, folder):
    return CheckpointCoordinator(store, HOUR, CheckpointOptions(folder))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


async def until(condition):
    """Wait for what happens on threads; fails after ten seconds of it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.001)


async def has_made(coordinator, number):
    """Wait until so many were made, and until the background task sleeps again."""
    await until(lambda: coordinator.stats().checkpoints_created >= number)
    await idle(coordinator)


async def idle(coordinator):
    await asyncio.sleep(0)
    await until(lambda: not coordinator._busy.locked())
    await asyncio.sleep(0)


# --- when asked -------------------------------------------------------------------------------------------------


async def test_a_checkpoint_comes_back_as_it_was(store, coordinator):
    await store.put("a", b"1")
    first = await coordinator.create_checkpoint()
    await store.put("a", b"2")
    second = await coordinator.create_checkpoint()
    assert await coordinator.restore(first, replace=True) == 1
    assert (await store.get("a")).value == b"1"
    assert await coordinator.restore(second, replace=True) == 1
    assert (await store.get("a")).value == b"2"
    with pytest.raises(ConflictError):
        await coordinator.restore(first)
    assert (await store.get("a")).value == b"2"


async def test_the_list_tells_what_is_there_oldest_first(store, coordinator, clock, folder):
    assert await coordinator.list_checkpoints() == []
    assert not folder.exists()
    ids = []
    for number in range(3):
        await store.put(f"{number}", b"1")
        ids.append(await coordinator.create_checkpoint(f"number {number}/ß" if number else ""))
        clock.advance(1.5)
    found = await coordinator.list_checkpoints()
    assert [info.id for info in found] == ids == sorted(ids)
    assert [info.name for info in found] == ["", "number 1/ß", "number 2/ß"]
    assert [info.entries for info in found] == [1, 2, 3]
    assert [info.engine for info in found] == ["memory"] * 3
    assert [info.revision for info in found] == sorted({info.revision for info in found})
    assert [info.size_bytes for info in found] == [(folder / f"{id_}.checkpoint").stat().st_size for id_ in ids]
    start = datetime(2026, 3, 1, tzinfo=UTC)
    assert [info.created_at - start for info in found] == [timedelta(seconds=n * 1.5) for n in range(3)]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{ids[0]}.checkpoint").stat().st_mode) == 0o600


async def test_ids_ascend_even_when_the_clock_stands_still_or_goes_back(tmp_path, folder):
    ids = []
    for year in (2026, 2026, 2020, 2030, 2025):
        clock = ManualClock(datetime(year, 1, 1, tzinfo=UTC))
        store = MemoryStore(options=StoreOptions(), clock=clock)
        coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder))
        ids += [await coordinator.create_checkpoint("" if len(ids) % 2 else "named") for _ in range(3)]
    assert ids == sorted(set(ids))
    assert [info.id for info in await coordinator.list_checkpoints()] == ids


async def test_verify_reads_everything(store, coordinator, folder):
    await store.put("a", b"1" * 100)
    id_ = await coordinator.create_checkpoint("x")
    assert await coordinator.verify(id_) == (await coordinator.list_checkpoints())[0]
    path = folder / f"{id_}.checkpoint"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert len(await coordinator.list_checkpoints()) == 1, "its header and footer are whole"
    with pytest.raises(CorruptionError) as caught:
        await coordinator.verify(id_)
    assert caught.value.path == str(path)
    with pytest.raises(CorruptionError):
        await coordinator.restore(id_, replace=True)
    assert (await store.get("a")).value == b"1" * 100


@pytest.mark.parametrize(
    "id_",
    [
        "",
        ".",
        "..",
        "../secret",
        "/etc/passwd",
        "20260301T000000.000000Z/../../x",
        "20260301T000000.000000Z-../x",
        "20260301T000000.000000Z-a\0",
        "20260301T000000.000000Z\n",
        "20260301T000000.000000Z",
        "20269999T000000.000000Z",
        "99991231T000000.000000Z",
        "\u0662\u0660\u0662\u06660301T000000.000000Z",
        None,
        7,
        b"20260301T000000.000000Z",
    ],
)
async def test_an_id_that_is_none_is_not_found_and_leads_nowhere(coordinator, id_, tmp_path):
    (tmp_path / "secret.checkpoint").write_text("not for you")
    for call in (coordinator.restore, coordinator.verify):
        with pytest.raises(CheckpointNotFoundError):
            await call(id_)
    assert (tmp_path / "secret.checkpoint").exists()


async def test_an_id_that_was_removed_is_not_found(coordinator, folder):
    id_ = await coordinator.create_checkpoint()
    (folder / f"{id_}.checkpoint").unlink()
    for call in (coordinator.restore, coordinator.verify):
        with pytest.raises(CheckpointNotFoundError):
            await call(id_)
    with pytest.raises(CheckpointNotFoundError):
        await coordinator.restore(id_, progress=lambda done, total: None)


async def test_a_name_of_any_signs_stays_in_the_directory(coordinator, folder, tmp_path):
    names = ["../../up", "a/b", "..", ".", "%2F", "nul\0", "日本", "CON", "x" * 150]
    for name in names:
        await coordinator.create_checkpoint(name)
    assert [info.name for info in await coordinator.list_checkpoints()] == names
    assert names_in(tmp_path) == ["checkpoints"]
    for name in ("x" * 151, "日" * 17, "\ud800"):
        with pytest.raises(SettingsError):
            await coordinator.create_checkpoint(name)


async def test_the_newest_whole_one_is_restored_and_damaged_ones_are_passed_over(store, coordinator, folder, caplog):
    assert await coordinator.restore_latest() is None
    ids = []
    for number in range(4):
        await store.put("a", b"%d" % number)
        ids.append(await coordinator.create_checkpoint())
    paths = [folder / f"{id_}.checkpoint" for id_ in ids]
    paths[3].write_bytes(paths[3].read_bytes()[:-1])
    damaged = bytearray(paths[2].read_bytes())
    damaged[-60] ^= 8
    paths[2].write_bytes(damaged)
    with pytest.raises(ConflictError):
        await coordinator.restore_latest()
    with caplog.at_level(logging.WARNING, "reactstate.checkpoints"):
        assert await coordinator.restore_latest(replace=True) == ids[1]
    assert [record.args[0] for record in caplog.records][-2:] == [ids[3], ids[2]]
    assert (await store.get("a")).value == b"1"
    assert [info.id for info in await coordinator.list_checkpoints()] == ids[:3]
    for path in paths:
        path.write_bytes(b"")
    assert await coordinator.restore_latest(replace=True) is None
    assert (await store.get("a")).value == b"1"


async def test_a_failure_of_the_store_itself_is_not_taken_for_a_damaged_checkpoint(clock, folder):
    class Broken(MemoryStore):
        async def _load(self, batches, *, revision, replace):
            raise StorageError("the disk is gone", path="/elsewhere")

    coordinator = CheckpointCoordinator(Broken(options=StoreOptions(), clock=clock), HOUR, CheckpointOptions(folder))
    id_ = await coordinator.create_checkpoint()
    for work in (coordinator.restore_latest(), coordinator.restore(id_)):
        with pytest.raises(StorageError, match="the disk is gone"):
            await work


async def test_the_oldest_beyond_the_number_to_keep_are_removed(store, folder):
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder, max_checkpoints=3))
    (folder.parent / "checkpoints").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "mine.checkpoint").write_text("mine")
    ids = [await coordinator.create_checkpoint(name) for name in ("a", "", "b", "", "")]
    assert [info.id for info in await coordinator.list_checkpoints()] == ids[-3:]
    assert names_in(folder)[-2:] == ["mine.checkpoint", "notes.txt"]
    assert len(names_in(folder)) == 5


async def test_a_checkpoint_that_cannot_be_removed_is_told_and_does_no_harm(store, folder, caplog):
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder, max_checkpoints=1))
    stuck = folder / "20200101T000000.000000Z.checkpoint"
    stuck.mkdir(parents=True)
    tmp = folder / "20200101T000000.000000Z.checkpoint.0a.tmp"
    tmp.mkdir()
    id_ = await coordinator.create_checkpoint()
    assert await coordinator.verify(id_)
    assert [info.id for info in await coordinator.list_checkpoints()] == [id_]
    assert "could not be removed" in caplog.text


async def test_progress_is_told_with_the_total_where_it_is_known(store, coordinator):
    for number in range(3):
        await store.put(f"{number}", b"")
    told = []
    id_ = await coordinator.create_checkpoint(progress=lambda done, total: told.append((done, total)))
    await coordinator.restore(id_, replace=True, progress=lambda done, total: told.append((done, total)))
    await coordinator.restore_latest(replace=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, None), (3, 3), (3, 3)]


async def test_stats_count_what_was_done(store, folder):
    class Slow(ManualClock):
        def monotonic(self):
            self.advance(0.5)
            return super().monotonic()

    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder), clock=Slow())
    assert coordinator.stats() == CheckpointStats()
    id_ = await coordinator.create_checkpoint()
    before = coordinator.stats()
    assert before == CheckpointStats(1, 0, 500.0, (folder / f"{id_}.checkpoint").stat().st_size, 0.0)
    await coordinator.restore(id_)
    assert coordinator.stats().last_restore_duration_ms == 500.0
    assert before.last_restore_duration_ms == 0.0, "what stats() gave does not change"


@pytest.mark.parametrize("compress", [True, False])
async def test_compress_is_passed_on(store, folder, compress):
    await store.put("a", b"0" * 10_000)
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder, compress=compress))
    await coordinator.create_checkpoint()
    assert (coordinator.stats().last_checkpoint_bytes < 10_000) is compress


# --- in the background ------------------------------------------------------------------------------------------


async def test_one_is_made_every_interval_in_which_something_was_committed(store, coordinator, clock):
    await coordinator.start()
    coordinator.start()
    assert await coordinator.list_checkpoints() == []
    made = 0
    for commits in (1, 0, 3, 0, 0, 1):
        for _ in range(commits):
            await store.put("a", b"1")
        await asyncio.sleep(0)
        clock.advance(HOUR)
        made += commits > 0
        await has_made(coordinator, made)
        assert coordinator.stats().checkpoints_created == made
    await coordinator.shutdown()
    assert len(await coordinator.list_checkpoints()) == made == 3


async def test_an_automatic_one_is_skipped_while_the_newest_is_young_and_asked_for_ones_are_not(store, folder, clock):
    options = CheckpointOptions(folder, min_interval=timedelta(hours=2, minutes=30))
    coordinator = CheckpointCoordinator(store, HOUR, options)
    coordinator.start()
    await coordinator.create_checkpoint()
    await coordinator.create_checkpoint()
    for hour in range(1, 7):
        await store.put("a", b"%d" % hour)
        await asyncio.sleep(0)
        clock.advance(HOUR)
        due = 2 + hour // 3
        await has_made(coordinator, due)
        assert coordinator.stats().checkpoints_created == due
    await coordinator.shutdown()


async def test_a_checkpoint_from_the_future_does_not_hold_automatic_ones_up(store, folder, clock):
    folder.mkdir()
    (folder / "20990101T000000.000000Z.checkpoint").write_bytes(b"")
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder, min_interval=HOUR))
    coordinator.start()
    await asyncio.sleep(0)
    clock.advance(HOUR)
    await until(lambda: coordinator.stats().checkpoints_created == 1)
    await coordinator.shutdown()


async def test_a_failure_is_counted_and_logged_and_the_next_is_tried(store, coordinator, clock, folder, caplog):
    coordinator.start()
    (folder / ".lock").unlink()
    folder.rmdir()
    folder.write_text("a file is in the way")
    await store.put("a", b"1")
    await asyncio.sleep(0)
    clock.advance(HOUR)
    await until(lambda: "is tried in time" in caplog.text)
    assert coordinator.stats().checkpoint_failures == 1
    with pytest.raises(StorageError):
        await coordinator.create_checkpoint()
    assert coordinator.stats().checkpoint_failures == 2
    folder.unlink()
    await idle(coordinator)
    clock.advance(HOUR)
    await has_made(coordinator, 1)
    assert coordinator.stats().checkpoint_failures == 2
    await coordinator.shutdown()


async def test_a_failure_while_writing_is_counted_and_leaves_nothing(store, coordinator, folder, monkeypatch):
    async def full(path, **options):
        raise StorageError("the disk is full", path=path)

    monkeypatch.setattr(store, "checkpoint", full)
    with pytest.raises(StorageError, match="full"):
        await coordinator.create_checkpoint()
    assert coordinator.stats() == CheckpointStats(checkpoint_failures=1)
    assert names_in(folder) == []
    monkeypatch.undo()
    await coordinator.create_checkpoint()
    assert coordinator.stats().checkpoints_created == 1


async def test_the_background_ends_when_the_store_was_closed_first(store, coordinator, clock, caplog):
    coordinator.start()
    await asyncio.sleep(0)
    await store.aclose()
    clock.advance(HOUR)
    await until(lambda: "closed before shutdown" in caplog.text)
    with pytest.raises(ClosedError):
        await coordinator.shutdown()


# --- the end ----------------------------------------------------------------------------------------------------


async def test_shutdown_makes_a_final_one_unless_nothing_was_committed(store, folder, clock):
    options = CheckpointOptions(folder, min_interval=timedelta(days=1))
    coordinator = CheckpointCoordinator(store, HOUR, options)
    coordinator.start()
    await store.put("a", b"1")
    await coordinator.create_checkpoint()
    await store.put("a", b"2")
    await coordinator.shutdown()
    assert coordinator.stats().checkpoints_created == 2
    await coordinator.shutdown()
    other = CheckpointCoordinator(store, HOUR, options)
    await other.create_checkpoint()
    await other.shutdown()
    assert other.stats().checkpoints_created == 1
    assert len(await other.list_checkpoints()) == 3


async def test_after_shutdown_only_reading_is_possible(coordinator):
    id_ = await coordinator.create_checkpoint()
    await coordinator.shutdown()
    for call in (coordinator.create_checkpoint, coordinator.restore_latest, lambda: coordinator.restore(id_)):
        with pytest.raises(ClosedError):
            await call()
    with pytest.raises(ClosedError):
        coordinator.start()
    assert (await coordinator.verify(id_)).id == id_
    assert [info.id for info in await coordinator.list_checkpoints()] == [id_]


async def test_shutdown_ends_a_checkpoint_under_way_and_leaves_no_half_of_it(store, coordinator, clock, folder):
    coordinator.start()
    await store.put("a", b"1")
    await asyncio.sleep(0)
    clock.advance(HOUR)
    await asyncio.sleep(0)
    await coordinator.shutdown()
    assert names_in(folder) == [f"{info.id}.checkpoint" for info in await coordinator.list_checkpoints()]
    assert names_in(folder)


async def test_calls_that_waited_for_a_shutdown_are_told(store, coordinator):
    await store.put("a", b"1")
    ending = asyncio.ensure_future(coordinator.shutdown())
    waiting = [asyncio.ensure_future(call()) for call in (coordinator.create_checkpoint, coordinator.restore_latest)]
    await asyncio.wait([ending, *waiting])
    assert ending.exception() is None
    assert all(isinstance(task.exception(), ClosedError) for task in waiting)


async def test_a_context_manager_starts_and_shuts_down(store, folder, caplog):
    async with CheckpointCoordinator(store, HOUR, CheckpointOptions(folder)) as coordinator:
        await store.put("a", b"1")
    assert len(await coordinator.list_checkpoints()) == 1
    with pytest.raises(KeyError):
        async with CheckpointCoordinator(store, HOUR, CheckpointOptions(folder)) as coordinator:
            raise KeyError("mine")
    assert len(await coordinator.list_checkpoints()) == 2
    with pytest.raises(KeyError):
        async with CheckpointCoordinator(store, HOUR, CheckpointOptions(folder)):
            await store.aclose()
            raise KeyError("mine")
    assert "the final checkpoint" in caplog.text
    with pytest.raises(ClosedError):
        async with CheckpointCoordinator(store, HOUR, CheckpointOptions(folder)):
            pass


async def test_a_cancelled_checkpoint_lets_the_next_one_begin(store, coordinator, folder):
    await store.put("a", b"1")
    for turns in range(1, 40, 3):
        task = asyncio.ensure_future(coordinator.create_checkpoint())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    id_ = await coordinator.create_checkpoint()
    assert (await coordinator.list_checkpoints())[-1].id == id_
    assert not [name for name in names_in(folder) if name.endswith(".tmp")]
    assert coordinator.stats().checkpoint_failures == 0


# --- several at a time ------------------------------------------------------------------------------------------


async def test_two_coordinators_on_one_directory_do_each_other_no_harm(store, folder):
    options = CheckpointOptions(folder, max_checkpoints=100)
    first, second = (CheckpointCoordinator(store, HOUR, options) for _ in range(2))
    first.start()
    ids = await asyncio.gather(*(one.create_checkpoint() for _ in range(5) for one in (first, second)))
    second.start()
    assert [info.id for info in await first.list_checkpoints()] == sorted(set(ids))
    assert len(ids) == len(set(ids)) == 10
    for id_ in ids:
        await second.verify(id_)
    await first.shutdown()
    await second.shutdown()


async def test_a_checkpoint_that_another_coordinator_prunes_while_it_is_restored_is_restored(clock, store, folder):
    for number in range(50):
        await store.put(f"{number:02}", b"1")
    one = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder, max_checkpoints=1))
    id_ = await one.create_checkpoint()

    class Pruned(MemoryStore):
        async def _load(self, batches, *, revision, replace):
            await one.create_checkpoint()
            return await super()._load(batches, revision=revision, replace=replace)

    target = Pruned(options=StoreOptions(), clock=clock)
    assert await CheckpointCoordinator(target, HOUR, CheckpointOptions(folder)).restore(id_) == 50
    assert not (folder / f"{id_}.checkpoint").exists()


async def test_a_restore_and_a_checkpoint_of_one_coordinator_take_turns(store, coordinator):
    await store.put("a", b"1")
    id_ = await coordinator.create_checkpoint()
    await store.put("b", b"2")
    restored, made = await asyncio.gather(coordinator.restore(id_, replace=True), coordinator.create_checkpoint())
    assert restored == 1
    assert (await coordinator.verify(made)).entries == 1


CHILD = """
import asyncio, sys
from datetime import timedelta
from reactstate.checkpoints import CheckpointCoordinator, CheckpointOptions
from reactstate.clock import SystemClock
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions

async def main():
    store = MemoryStore(options=StoreOptions(), clock=SystemClock())
    await store.put("a", b"1")
    coordinator = CheckpointCoordinator(store, timedelta(hours=1), CheckpointOptions(sys.argv[1]))

    def told(done, total):
        print("writing", flush=True)
        sys.stdin.read()

    await coordinator.create_checkpoint(progress=told)

asyncio.run(main())
"""


async def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(store, folder):
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert await child.stdout.readline() == b"writing\n"
        before = names_in(folder)
        assert len(before) == 1
        assert before[0].endswith(".tmp")
        coordinator.start()
        waiting = asyncio.ensure_future(coordinator.create_checkpoint())
        await asyncio.sleep(0.005)
        assert names_in(folder) == before, "the other process is still writing it"
        assert not waiting.done()
        child.send_signal(signal.SIGKILL)
        await child.wait()
        id_ = await waiting
        assert names_in(folder) == [f"{id_}.checkpoint"]
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        child._transport.close()
    (folder / before[0]).write_bytes(b"left again")
    (folder / "other.tmp").write_bytes(b"not ours")
    other = CheckpointCoordinator(store, HOUR, CheckpointOptions(folder))
    other.start()
    assert names_in(folder) == [f"{id_}.checkpoint", "other.tmp"]
    await other.shutdown()
    await coordinator.shutdown()


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_dir": ""},
        {"checkpoint_dir": None},
        {"checkpoint_dir": 5},
        {"checkpoint_dir": b"folder"},
        {"checkpoint_dir": "a\0b"},
        {"max_checkpoints": 0},
        {"max_checkpoints": -1},
        {"max_checkpoints": 1.5},
        {"max_checkpoints": True},
        {"compress": "zstd"},
        {"min_interval": timedelta(seconds=-1)},
        {"min_interval": 300},
    ],
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        CheckpointOptions(**({"checkpoint_dir": "folder"} | options))


def test_options_have_defaults():
    options = CheckpointOptions("folder")
    assert (options.max_checkpoints, options.compress, options.min_interval) == (24, True, timedelta(0))


async def test_a_coordinator_of_what_cannot_be_is_refused(store, folder):
    options = CheckpointOptions(folder)
    for interval in (timedelta(0), timedelta(seconds=-1), 3600):
        with pytest.raises(SettingsError, match="interval"):
            CheckpointCoordinator(store, interval, options)
    with pytest.raises(SettingsError, match="options"):
        CheckpointCoordinator(store, HOUR, str(folder))

    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    with pytest.raises(UnsupportedError) as caught:
        CheckpointCoordinator(Plain(options=StoreOptions(), clock=store._clock), HOUR, options)
    assert (caught.value.layer, caught.value.capability) == ("CheckpointCoordinator", "SNAPSHOT_READS")


async def test_a_directory_that_cannot_be_used_is_a_storage_error(store, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions(place))
        for call in (coordinator.create_checkpoint, coordinator.list_checkpoints, coordinator.restore_latest):
            with pytest.raises(StorageError) as caught:
                await call()
            assert caught.value.path == str(place)
            assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(StorageError):
            coordinator.start()
        assert coordinator.stats().checkpoint_failures == 1


async def test_a_relative_directory_stays_where_it_was(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coordinator = CheckpointCoordinator(store, HOUR, CheckpointOptions("here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await coordinator.create_checkpoint()
    assert names_in(tmp_path) == ["elsewhere", "here"]
    assert str(tmp_path / "here") in repr(coordinator)


def test_the_age_of_the_newest_is_none_where_there_is_none(tmp_path):
    assert CheckpointDirectory(str(tmp_path / "missing")).age(datetime.now(UTC)) is None


# --- engines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb"])
async def test_hourly_checkpoints_of_any_engine_survive_it(tmp_path, engine):
    clock, folder = ManualClock(), tmp_path / "checkpoints"
    url = "memory:" if engine == "memory" else f"{engine}:{tmp_path}/first"
    options = CheckpointOptions(os.fspath(folder), max_checkpoints=2)
    async with open_store(url, clock=clock) as store, CheckpointCoordinator(store, HOUR, options) as coordinator:
        for hour in range(1, 5):
            await store.put("hour", b"%d" % hour)
            await asyncio.sleep(0)
            clock.advance(HOUR)
            await has_made(coordinator, hour)
        await store.put("hour", b"last")
    async with open_store("memory:", clock=clock) as store:
        coordinator = CheckpointCoordinator(store, HOUR, options)
        found = await coordinator.list_checkpoints()
        assert [info.engine for info in found] == [engine] * 2
        assert await coordinator.restore_latest() == found[1].id
        assert (await store.get("hour")).value == b"last"
        await coordinator.restore(found[0].id, replace=True)
        assert (await store.get("hour")).value == b"4"
