from __future__ import annotations

import asyncio
import contextlib

import pytest

from reactstate.errors import CompactedError, CorruptionError, StorageError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.names import segment_file
from reactstate.testing.faults import FaultyFileSystem


async def writer_on(files, path="/d", **options):
    persistence = FilePersistence(path, filesystem=files, **options)
    await persistence.load()
    return persistence


def reader_on(files, path="/d"):
    return FilePersistence(path, filesystem=files, read_only=True)


async def take(following, wanted):
    async with contextlib.aclosing(following):
        async with asyncio.timeout(5):
            got = []
            async for record in following:
                got.append(record.version)
                if record.version == wanted:
                    return got
    return None


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
async def test_a_follower_sees_every_record_once_across_segments_and_compaction(story, tmp_path, durability):
    writer = FilePersistence(tmp_path, durability=durability, flush_interval=0.002)
    await writer.load()
    reader = FilePersistence(tmp_path, read_only=True)
    task = asyncio.ensure_future(take(reader.follow(0, poll_interval=0.001), 120))
    for version in range(1, 121):
        await writer.append([story.record(version)], story.schema)
        if version % 25 == 0:
            await writer.save(story.snapshot(version), keep_since=version - 60)
        if version % 5 == 0:
            await asyncio.sleep(0.003)
    assert await task == list(range(1, 121))
    loaded = await reader.load(history=5)
    assert loaded.head.document == story.document(120)
    assert [record.version async for record in reader.changes(100)] == list(range(101, 121))
    await reader.aclose()
    await writer.aclose()


async def test_a_follower_that_is_too_late_is_told_where_to_resume(story):
    files = FaultyFileSystem()
    writer = await writer_on(files)
    await writer.append(story.records(1, 5), story.schema)
    reader = reader_on(files)
    following = reader.follow(0, poll_interval=0.001)
    assert (await anext(following)).version == 1
    await following.aclose()
    await writer.save(story.snapshot(5), keep_since=5)
    with pytest.raises(CompactedError) as caught:
        await take(reader.follow(1, poll_interval=0.001), 5)
    assert caught.value.resume == 5
    await writer.append(story.records(6, 7), story.schema)
    assert await take(reader.follow(5, poll_interval=0.001), 7) == [6, 7]
    await writer.aclose()


@pytest.mark.parametrize("durability", ["always", "interval"])
async def test_a_follower_never_sees_what_a_power_cut_takes_back(story, durability):
    for at in range(1, 60):
        files = FaultyFileSystem(seed=at)
        writer = await writer_on(files, durability=durability)
        files.crash(at=at)
        with contextlib.suppress(StorageError, Exception):
            for version in range(1, 20):
                await writer.append([story.record(version)], story.schema)
                if version == 8:
                    await writer.flush()
                if version == 12:
                    await writer.save(story.snapshot(12), keep_since=0)
        seen = 0
        shadow = files.copy()
        loaded = await reader_on(shadow).load()
        if loaded is not None:
            seen = loaded.head.version
        for unsynced in ("torn", "lost"):
            after = await writer_of(files.after_crash(unsynced))
            assert seen <= after, (at, unsynced)
        with contextlib.suppress(Exception):
            await writer.aclose()


async def writer_of(files):
    persistence = FilePersistence("/d", filesystem=files)
    loaded = await persistence.load()
    await persistence.aclose()
    return loaded.head.version if loaded is not None else 0


async def test_without_a_published_offset_a_reader_sees_what_later_frames_prove(story):
    files = FaultyFileSystem()
    writer = await writer_on(files)
    for version in range(1, 5):
        await writer.append([story.record(version)], story.schema)
    await writer.aclose()
    files.put("/d/durable", b"torn")
    assert (await reader_on(files).load()).head.version == 3
    files.remove("/d/durable")
    assert (await reader_on(files).load()).head.version == 3
    assert await reader_on(FaultyFileSystem()).load() is None


async def test_damage_before_the_published_offset_is_corruption_for_readers_too(story):
    files = FaultyFileSystem()
    writer = await writer_on(files)
    for version in range(1, 5):
        await writer.append([story.record(version)], story.schema)
    path = "/d/" + segment_file(1)
    reader = reader_on(files)
    following = reader.follow(0, poll_interval=0.001)
    for version in range(1, 5):
        assert (await anext(following)).version == version
    await writer.append([story.record(5)], story.schema)
    whole = files.contents(path).rstrip(b"\0")
    files.put(path, whole[:-2])
    with pytest.raises(CorruptionError):
        await anext(following)
    with pytest.raises(CorruptionError):
        await reader.load()
    await writer.aclose()


async def test_records_that_were_published_and_are_gone_are_reported(story):
    files = FaultyFileSystem()
    writer = await writer_on(files)
    await writer.append(story.records(1, 3), story.schema)
    before = {path: files.contents(path) for path in files.paths()}
    await writer.append(story.records(4, 5), story.schema)
    following = reader_on(files).follow(0, poll_interval=0.001)
    for version in range(1, 6):
        assert (await anext(following)).version == version
    for path, data in before.items():
        files.put(path, data)
    with pytest.raises(CorruptionError):
        await anext(following)
    await writer.aclose()


async def test_a_reader_meets_an_unreadable_file_with_a_storage_error(story):
    files = FaultyFileSystem()
    writer = await writer_on(files)
    await writer.append(story.records(1, 3), story.schema)
    await writer.aclose()
    for operation, most in (("open", 3), ("list_directory", 1), ("read_file", 1)):
        for nth in range(1, most + 1):
            broken = files.copy()
            broken.fail(operation, nth=nth)
            try:
                await reader_on(broken).load()
            except StorageError:
                continue
