from __future__ import annotations

import asyncio
import contextlib
import errno

import pytest

from reactstate.errors import ReactStateError, StorageError, StorageFailedError, UnknownOutcomeError
from reactstate.persistence.file import FilePersistence
from reactstate.testing.faults import FaultyFileSystem

LATER = {"cart": 2}


class Run:
    """A script of everything that writes, and what it was told to be there."""

    def __init__(self, story, files, durability):
        self.story = story
        self.persistence = FilePersistence("/d", durability=durability, filesystem=files)
        self.acknowledged = 0
        self.attempted = 0
        self.blob = None
        self.blobs = {None}

    async def append(self, first, last, schema):
        self.attempted = max(self.attempted, last)
        await self.persistence.append(self.story.records(first, last), schema)
        self.acknowledged = last

    async def put(self, data):
        self.blobs.add(data)
        await self.persistence.put_blob("note", data)
        self.blob = data
        self.blobs = {data}

    async def play(self):
        story = self.story
        await self.persistence.load()
        await self.append(1, 1, story.schema)
        await self.append(2, 4, story.schema)
        await self.put(b"one")
        await asyncio.gather(self.append(5, 5, story.schema), self.append(6, 7, story.schema))
        await self.persistence.save(story.snapshot(7), keep_since=2)
        await self.append(8, 9, story.schema)
        saving = asyncio.ensure_future(self.persistence.save(story.snapshot(9), keep_since=7))
        await asyncio.sleep(0)
        try:
            await self.append(10, 11, story.schema)
        finally:
            (result,) = await asyncio.gather(saving, return_exceptions=True)
        if result is not None:
            raise result
        await self.put(b"two")
        await self.persistence.save(story.snapshot(11, LATER), keep_since=9)
        await self.append(12, 13, LATER)
        self.blobs.add(None)
        await self.persistence.delete_blob("note")
        self.blobs = {None}
        await self.persistence.save(story.snapshot(13, LATER), keep_since=13)
        await self.persistence.aclose()


async def calls_of_a_whole_run(story, durability):
    files = FaultyFileSystem()
    await Run(story, files, durability).play()
    return files.calls


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
async def test_a_crash_at_any_call_loses_nothing_that_was_promised_and_invents_nothing(story, durability):
    documents = {version: story.document(version) for version in range(14)}
    for at in range(1, await calls_of_a_whole_run(story, durability) + 1):
        for seed in range(4):
            files = FaultyFileSystem(seed=at * 7 + seed)
            files.crash(at=at)
            run = Run(story, files, durability)
            with contextlib.suppress(ReactStateError):
                await run.play()
            with contextlib.suppress(ReactStateError):
                await run.persistence.aclose()
            for unsynced in ("torn", "lost", "kept"):
                after = FilePersistence("/d", filesystem=files.after_crash(unsynced))
                loaded = await after.load(history=3)
                version = loaded.head.version if loaded is not None else 0
                promised = run.acknowledged if durability == "always" or unsynced == "kept" else 0
                assert promised <= version <= run.attempted, (at, seed, unsynced)
                if loaded is not None:
                    assert loaded.head.document == documents[version]
                    assert await after.get_blob("note") in run.blobs
                    await after.append([story.record(version + 1)], loaded.head.schema)
                await after.aclose()
                report = await FilePersistence("/d", filesystem=after._files).verify()
                assert report.problems == [], (
                    at,
                    seed,
                    unsynced,
                    version,
                    after._files.paths(),
                    loaded and loaded.head.schema,
                )


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "truncate", "rename", "remove", "sync_directory", "open"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_failure_at_any_call_is_typed_and_keeps_what_was_acknowledged(story, operation, error):
    probe = FaultyFileSystem()
    await Run(story, probe, "always").play()
    for nth in range(1, probe.counts[operation] + 1):
        files = FaultyFileSystem(seed=nth)
        files.fail(operation, nth=nth, error=error)
        run = Run(story, files, "always")
        with contextlib.suppress(ReactStateError):
            await run.play()
        with contextlib.suppress(ReactStateError):
            await run.persistence.aclose()
        after = FilePersistence("/d", filesystem=files.after_crash())
        loaded = await after.load()
        version = loaded.head.version if loaded is not None else 0
        assert run.acknowledged <= version <= run.attempted
        assert loaded is None or loaded.head.document == story.document(version)
        await after.aclose()


async def opened(story, files, durability="always"):
    persistence = FilePersistence("/d", durability=durability, filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 3), story.schema)
    return persistence


async def test_a_failed_write_keeps_nothing_and_the_persistence_goes_on(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.fail("pwrite", error=errno.ENOSPC)
    with pytest.raises(StorageError) as caught:
        await persistence.append([story.record(4)], story.schema)
    assert type(caught.value) is StorageError
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StorageError):
        await persistence.append([story.record(5)], story.schema)
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()
    again = FilePersistence("/d", filesystem=files)
    assert (await again.load()).head.version == 4
    await again.aclose()


async def test_a_short_write_is_continued(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.short_write(size=5)
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()
    assert (await FilePersistence("/d", filesystem=files, read_only=True).load()).head.version == 4


async def test_a_short_write_that_cannot_be_continued_keeps_nothing(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.short_write(size=5)
    files.short_write(nth=2, size=0)
    with pytest.raises(StorageError):
        await persistence.append([story.record(4)], story.schema)
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()


async def test_a_failed_sync_is_not_tried_again_and_ends_all_writing(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.fail("fdatasync")
    with pytest.raises(UnknownOutcomeError):
        await persistence.append([story.record(4)], story.schema)
    syncs = files.counts["fdatasync"]
    with pytest.raises(StorageFailedError):
        await persistence.append([story.record(5)], story.schema)
    with pytest.raises(StorageFailedError):
        await persistence.put_blob("a", b"")
    with pytest.raises(StorageFailedError):
        await persistence.save(story.snapshot(3), keep_since=0)
    with pytest.raises(StorageFailedError):
        await persistence.flush()
    await persistence.aclose()
    assert files.counts["fdatasync"] == syncs
    again = FilePersistence("/d", filesystem=files)
    loaded = await again.load()
    await again.append([story.record(loaded.head.version + 1)], story.schema)
    await again.aclose()


async def test_a_write_that_cannot_be_taken_back_has_an_unknown_outcome(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.fail("pwrite")
    files.fail("truncate")
    with pytest.raises(UnknownOutcomeError):
        await persistence.append([story.record(4)], story.schema)
    with pytest.raises(StorageFailedError):
        await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()


async def test_all_appends_of_a_failed_flush_fail_and_those_behind_it_too(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    files.fail("pwrite")
    persistence._flusher._pulse_s = 1.0
    tries = [persistence.append([story.record(version)], story.schema) for version in range(4, 24)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert all(type(result) is StorageError for result in results)
    assert len({id(result) for result in results}) == len(results)
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()


async def test_concurrent_appends_share_a_sync(story):
    files = FaultyFileSystem()
    persistence = await opened(story, files)
    persistence._flusher._pulse_s = 1.0
    syncs = files.counts["fdatasync"]
    await asyncio.gather(*[persistence.append([story.record(version)], story.schema) for version in range(4, 204)])
    assert files.counts["fdatasync"] - syncs < 200
    await persistence.aclose()
    assert (await FilePersistence("/d", filesystem=files, read_only=True).load()).head.document == story.document(203)


@pytest.mark.parametrize(
    "operation", ["list_directory", "open", "pread", "read_file", "pwrite", "fdatasync", "remove", "lock"]
)
async def test_a_failure_at_any_call_of_a_load_is_a_storage_error_that_can_be_tried_again(story, operation):
    files = FaultyFileSystem()
    await Run(story, files, "always").play()
    files.put("/d/state-x.1-1.tmp", b"left by a crash")
    probe = files.copy()
    persistence = FilePersistence("/d", filesystem=probe)
    await persistence.load(history=5)
    for nth in range(1, probe.counts[operation] + 1):
        broken = files.copy()
        broken.fail(operation, nth=nth)
        persistence = FilePersistence("/d", filesystem=broken)
        with contextlib.suppress(StorageError, UnknownOutcomeError):
            await persistence.load(history=5)
        with contextlib.suppress(ReactStateError):
            await persistence.aclose()
        again = FilePersistence("/d", filesystem=broken)
        assert (await again.load()).head.document == story.document(13)
        await again.aclose()
    await persistence.aclose()


async def test_an_unforeseen_error_in_the_thread_reaches_its_caller_as_a_storage_error(story, monkeypatch):
    files = FaultyFileSystem()
    persistence = await opened(story, files)

    def broken(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("reactstate.persistence.journal.pack_frame", broken)
        with pytest.raises(StorageError):
            await persistence.append([story.record(4)], story.schema)
        patched.setattr("reactstate.persistence.journal.Journal.sync", broken)
        with pytest.raises(StorageError):
            await persistence.flush()
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()
