from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import stat
import sys
import threading
import time
import warnings

import pytest

from reactstate.clock import ManualClock
from reactstate.codec import AesGcmEncryption
from reactstate.errors import (
    AlreadyOpenError,
    ClosedError,
    CodecError,
    CompactedError,
    CorruptionError,
    InvalidKeyError,
    LimitExceededError,
    ReadOnlyError,
    SchemaVersionError,
    SettingsError,
    StorageError,
    StorageFailedError,
    WrongContextError,
)
from reactstate.persistence import file as file_module
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.filesystem import LocalFileSystem
from reactstate.persistence.names import segment_file, snapshot_file
from reactstate.testing.faults import FaultyFileSystem

LATER = {"cart": 2, "line": 1}


async def opened(files, **options):
    persistence = FilePersistence("/d", filesystem=files, **options)
    return persistence, await persistence.load(history=options.pop("history", 1000))


async def test_an_empty_or_missing_directory_loads_as_none_and_everything_comes_back(story, tmp_path):
    persistence = FilePersistence(tmp_path / "new" / "state")
    assert await persistence.load() is None
    await persistence.append(story.records(1, 5), story.schema)
    await persistence.append([], story.schema)
    await persistence.put_blob("a/B", b"blob")
    await persistence.aclose()
    await persistence.aclose()
    again = FilePersistence(tmp_path / "new" / "state")
    loaded = await again.load()
    head = loaded.head
    assert (head.version, head.document, head.schema) == (5, story.document(5), story.schema)
    assert (head.created_at_ns, head.updated_at_ns, head.change_id) == (10**18 + 1, 10**18 + 5, f"{5:032x}")
    assert [record.version for era in loaded.history for record in era.records] == [1, 2, 3, 4, 5]
    assert loaded.history[-1].records[-1].inverse is not None
    assert await again.get_blob("a/B") == b"blob"
    await again.aclose()


async def test_files_are_private(story, tmp_path):
    persistence = FilePersistence(tmp_path / "state")
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    await persistence.save(story.snapshot(1), keep_since=0)
    await persistence.put_blob("x", b"1")
    await persistence.aclose()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "blobs").stat().st_mode) == 0o700


async def test_a_second_writer_is_refused_until_the_first_closes(story, tmp_path):
    first = FilePersistence(tmp_path)
    await first.load()
    second = FilePersistence(tmp_path)
    with pytest.raises(AlreadyOpenError):
        await second.load()
    with pytest.raises(AlreadyOpenError):
        await first.load()
    await first.aclose()
    await second.load()
    await second.aclose()


async def test_a_dropped_persistence_lets_its_directory_go(story, tmp_path):
    persistence = FilePersistence(tmp_path)
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    thread = persistence._flusher._thread
    del persistence
    gc.collect()
    await asyncio.to_thread(thread.join)
    again = FilePersistence(tmp_path)
    assert (await again.load()).head.version == 1
    await again.aclose()


async def test_a_path_that_is_no_directory_or_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            await FilePersistence(path).load()
        assert caught.value.path == str(path)
    with pytest.raises(StorageError):
        await FilePersistence(tmp_path / "file", read_only=True).load()


@pytest.mark.parametrize(
    "options",
    [
        {"path": ""},
        {"path": "a\0b"},
        {"path": b"bytes"},
        {"durability": "sometimes"},
        {"flush_interval": 0},
        {"flush_interval": float("nan")},
        {"format": "xml"},
        {"compression": "rar"},
    ],
)
def test_unknown_settings_are_refused(options):
    with pytest.raises(SettingsError):
        FilePersistence(**{"path": "p", **options})


async def test_use_outside_its_time_loop_or_process_is_refused(story, tmp_path):
    persistence = FilePersistence(tmp_path)
    with pytest.raises(WrongContextError):
        persistence.append([story.record(1)], story.schema)
    assert not persistence.compaction_due
    await persistence.load()
    problems = []

    def elsewhere():
        try:
            persistence.append([story.record(1)], story.schema)
        except WrongContextError as exc:
            problems.append(exc)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(problems) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        status = 1
        try:
            persistence.append([story.record(1)], story.schema)
        except WrongContextError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - the child ends at once
    await persistence.append([story.record(1)], story.schema)
    await persistence.aclose()
    with pytest.raises(ClosedError):
        persistence.append([story.record(2)], story.schema)
    with pytest.raises(ClosedError):
        await persistence.load()
    assert "FilePersistence" in repr(persistence)


async def test_a_child_process_that_drops_what_it_inherited_does_not_release_the_lock(story, tmp_path):
    persistence = FilePersistence(tmp_path)
    await persistence.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            del persistence
            gc.collect()
        os._exit(0)
    os.waitpid(child, 0)  # noqa: ASYNC222 - the child ends at once
    with pytest.raises(AlreadyOpenError):
        await FilePersistence(tmp_path).load()
    await persistence.append([story.record(1)], story.schema)
    await persistence.aclose()


async def test_records_that_do_not_fit_are_refused_and_change_nothing(story, monkeypatch):
    persistence, _ = await opened(FaultyFileSystem())
    bad = story.record(1)
    bad.patch[0]["value"] = object()
    with pytest.raises(CodecError):
        persistence.append([bad], story.schema)
    with pytest.raises(ValueError):
        persistence.append([story.record(1), story.record(3)], story.schema)
    await persistence.append([tagged_record(story, 1)], story.schema)
    with pytest.raises(SchemaVersionError):
        persistence.append([story.record(2)], LATER)
    with pytest.raises(StorageError):
        await persistence.append([story.record(5)], story.schema)
    monkeypatch.setattr(file_module, "MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(LimitExceededError):
        persistence.append([story.record(2)], story.schema)
    await persistence.aclose()


def tagged_record(story, version):
    record = story.record(version)
    record.patch = [{"op": "replace", "path": "", "value": {"items": {}, "n": 1}}]
    record.tags = {"a": 1}
    return record


async def test_only_the_wanted_history_is_returned_in_eras(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    await persistence.append(story.records(1, 10), story.schema)
    await persistence.save(story.snapshot(10), keep_since=0)
    await persistence.append(story.records(11, 20), story.schema)
    await persistence.save(story.snapshot(20, LATER), keep_since=0)
    await persistence.append(story.records(21, 30), LATER)
    await persistence.aclose()
    for wanted, eras in [(0, [0]), (4, [4]), (10, [10]), (15, [5, 10]), (25, [15, 10]), (100, [20, 10])]:
        persistence, _ = await opened(files.copy())
        await persistence.aclose()
        persistence = FilePersistence("/d", filesystem=files.copy())
        loaded = await persistence.load(history=wanted)
        assert [len(era.records) for era in loaded.history] == eras
        assert loaded.head.document == story.document(30)
        assert loaded.head.schema == loaded.history[-1].schema == LATER
        if len(eras) == 2:
            assert loaded.history[0].schema == story.schema
            assert loaded.history[0].document == story.document(20)
        await persistence.aclose()


async def test_saving_drops_what_is_no_longer_needed_and_nothing_else(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    for version in range(1, 9):
        await persistence.append([story.record(version)], story.schema)
        await persistence.save(story.snapshot(version), keep_since=max(0, version - 3))
        assert [record.version async for record in persistence.changes(max(0, version - 3))][-1] == version
    names = [path.rpartition("/")[2] for path in files.paths()]
    assert sum(name.startswith("state-") for name in names) == 4
    assert sum(name.startswith("journal-") for name in names) <= 5
    with pytest.raises(CompactedError) as caught:
        [record async for record in persistence.changes(1)]
    assert caught.value.resume == 5
    assert [record.version async for record in persistence.changes(5)] == [6, 7, 8]
    assert [record.version async for record in persistence.changes(8)] == []
    await persistence.aclose()


async def test_a_long_history_with_many_saves_keeps_few_snapshots(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    for version in range(1, 200):
        await persistence.append([story.record(version)], story.schema)
        if version % 2:
            await persistence.save(story.snapshot(version), keep_since=max(0, version - 40))
    names = [path.rpartition("/")[2] for path in files.paths()]
    assert sum(name.startswith("state-") for name in names) <= 7
    assert 40 <= len([record async for record in persistence.changes(persistence._journal.horizon)]) <= 55
    await persistence.aclose()


async def test_appends_during_a_save_are_kept(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    await persistence.append(story.records(1, 3), story.schema)
    saving = [asyncio.ensure_future(persistence.save(story.snapshot(3), keep_since=3))]
    for version in range(4, 40):
        await persistence.append([story.record(version)], story.schema)
        await asyncio.sleep(0)
        if version % 10 == 0:
            saving.append(asyncio.ensure_future(persistence.save(story.snapshot(version), keep_since=version)))
    await asyncio.gather(*saving)
    await persistence.aclose()
    persistence, loaded = await opened(files)
    assert loaded.head.document == story.document(39)
    assert (await persistence.verify()).problems == []
    await persistence.aclose()


async def test_a_snapshot_above_the_journal_starts_it_anew(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    await persistence.save(story.snapshot(1), keep_since=1)
    await persistence.append([story.record(2)], story.schema)
    await persistence.save(story.snapshot(10), keep_since=0)
    await persistence.append([story.record(11)], story.schema)
    with pytest.raises(ValueError):
        await persistence.save(story.snapshot(5), keep_since=0)
    with pytest.raises(ValueError):
        await persistence.save(story.snapshot(10, LATER), keep_since=0)
    await persistence.aclose()
    persistence, loaded = await opened(files)
    assert (loaded.head.version, loaded.head.document) == (11, story.document(11))
    with pytest.raises(CompactedError):
        [record async for record in persistence.changes(2)]
    await persistence.aclose()


async def test_an_append_during_a_change_of_schema_is_refused(story):
    persistence, _ = await opened(FaultyFileSystem())
    await persistence.append([story.record(1)], story.schema)
    saving = asyncio.ensure_future(persistence.save(story.snapshot(1, LATER), keep_since=0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(WrongContextError):
        persistence.append([story.record(2)], story.schema)
    await saving
    await persistence.append([story.record(2)], LATER)
    await persistence.aclose()


async def test_a_snapshot_without_records_is_a_state_and_its_changes_are_compacted(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    await persistence.save(story.snapshot(7), keep_since=0)
    await persistence.aclose()
    for path in files.paths():
        if "journal" in path:
            files.remove(path)
    persistence = FilePersistence("/d", filesystem=files, read_only=True)
    assert (await persistence.load()).head.version == 7
    with pytest.raises(CompactedError):
        [record async for record in persistence.changes(2)]
    assert [record async for record in persistence.changes(7)] == []


async def test_formats_and_compressions_change_over_time_and_all_is_read(story):
    files = FaultyFileSystem()
    version = 0
    for format_ in ("json", "msgpack", "cbor"):
        for compression in ("none", "zstd", "gzip", "lz4"):
            persistence, loaded = await opened(files, format=format_, compression=compression)
            assert loaded is None or loaded.head.document == story.document(version)
            await persistence.append(story.records(version + 1, version + 9), story.schema)
            version += 9
            await persistence.put_blob(format_, format_.encode() * 200)
            await persistence.aclose()
    persistence, loaded = await opened(files)
    assert loaded.head.document == story.document(version)
    assert sum(len(era.records) for era in loaded.history) == version
    assert len(loaded.history) == 1
    assert [record.version async for record in persistence.changes(20)] == list(range(21, version + 1))
    assert await persistence.get_blob("cbor") == b"cbor" * 200
    assert (await persistence.verify()).problems == []
    await persistence.aclose()


async def test_a_newer_layout_is_a_codec_error_that_changes_nothing(story, monkeypatch):
    files = FaultyFileSystem()
    with monkeypatch.context() as patched:
        patched.setattr("reactstate.persistence.frames.LAYOUT", 2)
        persistence, _ = await opened(files)
        await persistence.append([story.record(1)], story.schema)
        await persistence.aclose()
    before = [files.contents(path) for path in files.paths()]
    with pytest.raises(CodecError):
        await FilePersistence("/d", filesystem=files).load()
    assert [files.contents(path) for path in files.paths()] == before
    other = FaultyFileSystem()
    with monkeypatch.context() as patched:
        patched.setattr("reactstate.persistence.sealing._LAYOUT", 2)
        persistence, _ = await opened(other)
        await persistence.save(story.snapshot(1), keep_since=1)
        await persistence.aclose()
    with pytest.raises(CodecError):
        await FilePersistence("/d", filesystem=other).load()


async def test_a_patch_that_does_not_fit_is_corruption(story):
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    record = story.record(1)
    record.patch = [{"op": "remove", "path": "/nothing"}]
    await persistence.append([record], story.schema)
    assert len((await persistence.verify()).problems) == 1
    await persistence.aclose()
    with pytest.raises(CorruptionError):
        await FilePersistence("/d", filesystem=files).load()


async def test_compaction_is_due_when_the_journal_is_four_times_the_snapshot(story):
    persistence, _ = await opened(FaultyFileSystem(), durability="never")
    version = 0
    while not persistence.compaction_due:
        await persistence.append(story.records(version + 1, version + 50), story.schema)
        version += 50
    assert persistence._journal.frame_bytes > 1 << 16
    await persistence.save(story.snapshot(version), keep_since=version)
    assert not persistence.compaction_due
    await persistence.aclose()
    assert not persistence.compaction_due


async def test_interval_syncs_by_the_clock_and_flush_at_once(story):
    files, clock = FaultyFileSystem(), ManualClock()
    persistence = FilePersistence("/d", durability="interval", flush_interval=5, filesystem=files, clock=clock)
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    await asyncio.sleep(0)
    syncs = files.counts["fdatasync"]
    await persistence.append([story.record(2)], story.schema)
    assert files.counts["fdatasync"] == syncs
    await advance(clock, 5, lambda: files.counts["fdatasync"] == syncs + 1)
    await advance(clock, 5, lambda: True)
    assert files.counts["fdatasync"] == syncs + 1
    await persistence.append([story.record(3)], story.schema)
    await persistence.flush()
    assert files.counts["fdatasync"] == syncs + 2
    await persistence.aclose()


async def advance(clock, seconds, reached):
    for _ in range(20):
        await asyncio.sleep(0)
    clock.advance(seconds)
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if reached():
            return
    raise AssertionError("the clock did not get there")


@pytest.mark.parametrize("told", [True, False])
async def test_a_sync_that_fails_in_the_background_fails_what_comes_later(story, told):
    files, clock = FaultyFileSystem(), ManualClock()
    persistence = FilePersistence("/d", durability="interval", filesystem=files, clock=clock)
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    await asyncio.sleep(0)
    files.fail("fdatasync")
    await advance(clock, 1, lambda: persistence._journal.failure is not None)
    await asyncio.sleep(0.002)
    if told:
        with pytest.raises(StorageFailedError):
            await persistence.append([story.record(2)], story.schema)
        await persistence.aclose()
    else:
        with pytest.raises(StorageFailedError):
            await persistence.aclose()


async def test_blobs_are_listed_replaced_deleted_and_checked(tmp_path):
    clock = ManualClock()
    persistence = FilePersistence(tmp_path, compression="zstd", clock=clock)
    await persistence.load()
    for name in ("snap/A", "snap/a", "snap/b.c", "cursor-1"):
        await persistence.put_blob(name, name.encode() * 100)
    await persistence.put_blob("snap/a", b"new")
    infos = await persistence.list_blobs("snap/")
    assert [(info.name, info.size_bytes) for info in infos] == [("snap/A", 600), ("snap/a", 3), ("snap/b.c", 800)]
    assert infos[0].modified_ns == clock.time_ns()
    assert len(await persistence.list_blobs()) == 4
    assert await persistence.delete_blob("snap/A")
    assert not await persistence.delete_blob("snap/A")
    assert await persistence.get_blob("snap/A") is None
    (tmp_path / "blobs" / "stray.tmp").write_bytes(b"")
    (tmp_path / "blobs" / "other").write_bytes(b"")
    path = tmp_path / "blobs" / "cursor-1.rsb"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptionError):
        await persistence.get_blob("cursor-1")
    path.write_bytes(b"short")
    assert [info.name for info in await persistence.list_blobs()] == ["snap/a", "snap/b.c"]
    with pytest.raises(CorruptionError) as caught:
        await persistence.get_blob("cursor-1")
    assert caught.value.path == str(path)
    assert [problem.path for problem in (await persistence.verify()).problems] == [str(path)]
    await persistence.aclose()
    again = FilePersistence(tmp_path)
    await again.load()
    assert not (tmp_path / "blobs" / "stray.tmp").exists()
    await again.aclose()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../../etc/passwd",
        "/absolute",
        "a//b",
        "a/",
        "a/../b",
        ".",
        "a\0b",
        "a b",
        "é",
        "x" * 121,
        "CON",
        "nul.txt",
        "a/LPT1",
        "a\\b",
        "a\n",
    ],
)
async def test_names_that_could_leave_the_directory_are_refused(name, tmp_path):
    persistence = FilePersistence(tmp_path / "d")
    await persistence.load()
    with pytest.raises(InvalidKeyError):
        await persistence.put_blob(name, b"")
    with pytest.raises(InvalidKeyError):
        await persistence.get_blob(name)
    await persistence.aclose()


async def test_blob_failures_are_storage_errors():
    files = FaultyFileSystem()
    persistence, _ = await opened(files)
    await persistence.put_blob("a", b"old")
    files.fail("pwrite", error=28)
    with pytest.raises(StorageError):
        await persistence.put_blob("a", b"new")
    assert await persistence.get_blob("a") == b"old"
    files.fail("read_file")
    with pytest.raises(StorageError):
        await persistence.get_blob("a")
    files.fail("open")
    with pytest.raises(StorageError):
        await persistence.list_blobs()
    files.fail("list_directory")
    with pytest.raises(StorageError):
        await persistence.list_blobs()
    files.fail("remove")
    with pytest.raises(StorageError):
        await persistence.delete_blob("a")
    await persistence.aclose()


async def test_a_blob_whose_turn_comes_after_the_close_is_refused():
    persistence, _ = await opened(FaultyFileSystem())
    async with persistence._blobs.writing:
        late = asyncio.ensure_future(persistence.put_blob("a", b""))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(persistence.aclose())
        persistence._blobs.closed = True
    with pytest.raises(ClosedError):
        await late
    await closing


class SlowSync(LocalFileSystem):
    """A disk that stalls."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()

    def sync(self, handle):
        self.gate.wait()
        super().sync(handle)


async def test_a_stalled_disk_does_not_hold_the_event_loop(story, tmp_path):
    files = SlowSync()
    persistence = FilePersistence(tmp_path, filesystem=files)
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    files.gate.clear()
    held = []
    waiting = []
    for version in range(2, 12):
        started = time.perf_counter()
        waiting.append(asyncio.ensure_future(wait_for(persistence.append([story.record(version)], story.schema))))
        held.append(time.perf_counter() - started)
    await asyncio.sleep(0.005)
    assert not any(task.done() for task in waiting)
    closing = asyncio.ensure_future(persistence.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(AlreadyOpenError):
        await FilePersistence(tmp_path).load()
    files.gate.set()
    await asyncio.gather(*waiting)
    await persistence.aclose()
    again = FilePersistence(tmp_path)
    assert (await again.load()).head.version == 11
    await again.aclose()


async def wait_for(awaitable):
    await awaitable


CHILD = """
import asyncio, sys
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.protocol import Record

async def main():
    persistence = FilePersistence(sys.argv[1], durability=sys.argv[2])
    await persistence.load()
    for version in range(1, 100000):
        patch = [{"op": "replace", "path": "", "value": version}]
        await persistence.append([Record(version, "0" * 32, 1, "update", None, None, None, None, patch)], {"n": 1})
        print(version, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path, durability):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), durability, stdout=asyncio.subprocess.PIPE
    )
    acknowledged = 0
    while acknowledged < 50:
        acknowledged = int(await child.stdout.readline())
    with pytest.raises(AlreadyOpenError):
        await FilePersistence(tmp_path).load()
    child.kill()
    for line in (await child.stdout.read()).decode().split("\n")[:-1]:
        acknowledged = int(line)
    await child.wait()
    persistence = FilePersistence(tmp_path)
    loaded = await persistence.load()
    assert loaded.head.version >= acknowledged
    assert loaded.head.document == loaded.head.version
    await persistence.aclose()


async def test_encryption_hides_state_and_blobs(story, tmp_path):
    keys = AesGcmEncryption({"k": b"0" * 32}, "k")
    persistence = FilePersistence(tmp_path, encryption=keys)
    await persistence.load()
    record = story.record(1)
    record.patch[0]["value"] = {"secret": "tulips"}
    await persistence.append([record], story.schema)
    await persistence.put_blob("b", b"tulips")
    await persistence.aclose()
    assert not any(b"tulips" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    again = FilePersistence(tmp_path, encryption=keys)
    assert (await again.load()).head.document == {"secret": "tulips"}
    await again.aclose()


async def test_names_of_files_are_those_that_the_documentation_tells():
    assert segment_file(3) == "journal-00000000000000000003.rsj"
    assert snapshot_file(12) == "state-00000000000000000012.rss"


async def test_a_reader_writes_nothing(story, tmp_path):
    reader = FilePersistence(tmp_path / "none", read_only=True)
    assert await reader.load() is None
    assert not (tmp_path / "none").exists()
    with pytest.raises(ReadOnlyError):
        reader.append([story.record(1)], story.schema)
    with pytest.raises(ReadOnlyError):
        await reader.put_blob("a", b"")
    with pytest.raises(ReadOnlyError):
        await reader.save(story.snapshot(1), keep_since=0)
    assert await reader.list_blobs() == []
    await reader.aclose()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_journal_file_that_is_missing_is_damage_and_not_an_empty_directory(story, tmp_path, read_only):
    persistence = FilePersistence(tmp_path)
    await persistence.load()
    await persistence.append([story.record(1)], story.schema)
    await persistence.aclose()
    (tmp_path / segment_file(1)).unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    again = FilePersistence(tmp_path, read_only=read_only)
    with pytest.raises(CorruptionError, match="missing"):
        await again.load()
    await again.aclose()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
