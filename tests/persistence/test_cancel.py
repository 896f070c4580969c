"""Everything that waits is cancelled at every moment, and what comes next finds things in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging

import pytest

from reactstate.errors import UnknownOutcomeError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.filesystem import LocalFileSystem
from reactstate.persistence.finishing import finish
from reactstate.testing.faults import FaultyFileSystem

LATER = {"cart": 2}


class Counting(LocalFileSystem):
    """Knows which handles are open."""

    def __init__(self):
        self.handles = set()

    def open(self, path, *, write=False, create=False):
        handle = super().open(path, write=write, create=create)
        self.handles.add(handle)
        return handle

    def close(self, handle):
        self.handles.remove(handle)
        super().close(handle)

    async def quiet(self, still_open=()):
        async with asyncio.timeout(5):
            while self.handles - set(still_open):  # noqa: ASYNC110 - threads end in their own time
                await asyncio.sleep(0.001)


async def cancelled_after(work, turns):
    """Cancel *work* after so many turns of the event loop; say whether it was still going."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


def moments():
    """Yield numbers of turns, close to one another at first, where most of the awaits are."""
    turns = 0
    while True:
        yield turns
        turns += 1 + turns // 4


@pytest.mark.parametrize("operation", ["replace_file", "read_file"])
async def test_a_whole_file_cancelled_at_any_await_is_the_old_or_the_new_and_nothing_is_left(tmp_path, operation):
    files = Counting()
    path = tmp_path / "file"
    for turns in moments():
        path.write_bytes(b"old")
        arguments = (str(path), b"new") if operation == "replace_file" else (str(path),)
        cancelled = await cancelled_after(getattr(files, operation)(*arguments), turns)
        await asyncio.sleep(0.001)
        await files.quiet()
        for _ in range(1000):
            if [entry.name for entry in tmp_path.iterdir()] == ["file"]:
                break
            await asyncio.sleep(0.001)
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
        assert path.read_bytes() in {b"old", b"new"}
        if not cancelled:
            break
    assert turns > 1
    gc.collect()


@pytest.mark.parametrize("operation", ["put", "delete"])
async def test_a_blob_written_after_a_cancelled_write_or_removal_is_the_one_that_stays(tmp_path, operation):
    files = Counting()
    persistence = FilePersistence(tmp_path, filesystem=files)
    await persistence.load()
    for turns in moments():
        await persistence.put_blob("name", b"old")
        work = persistence.put_blob("name", b"cancelled") if operation == "put" else persistence.delete_blob("name")
        cancelled = await cancelled_after(work, turns)
        await persistence.put_blob("name", b"new")
        await asyncio.sleep(0.002)
        assert await persistence.get_blob("name") == b"new"
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["name.rsb"]
        if not cancelled:
            break
    assert turns > 2
    await persistence.aclose()
    await files.quiet()


@pytest.mark.parametrize("schema", [None, LATER], ids=["same schema", "other schema"])
@pytest.mark.parametrize("again", [True, False], ids=["saved again", "gone on"])
async def test_a_save_cancelled_at_any_await_leaves_nothing_that_hurts_and_the_next_one_works(story, schema, again):
    wanted = schema or story.schema
    for turns in moments():
        files = FaultyFileSystem()
        persistence = FilePersistence("/d", filesystem=files)
        await persistence.load()
        await persistence.append(story.records(1, 3), story.schema)
        await persistence.save(story.snapshot(3), keep_since=0)
        await persistence.append(story.records(4, 6), story.schema)
        cancelled = await cancelled_after(persistence.save(story.snapshot(6, wanted), keep_since=3), turns)
        if again:
            await persistence.save(story.snapshot(6, wanted), keep_since=3)
        async with persistence._saving:
            now = persistence._schema
        assert now == wanted or (cancelled and not again)
        await persistence.append([story.record(7)], now)
        await persistence.aclose()
        after = FilePersistence("/d", filesystem=files)
        loaded = await after.load()
        assert (loaded.head.version, loaded.head.document, loaded.head.schema) == (7, story.document(7), now)
        assert (await after.verify()).problems == []
        await after.aclose()
        if not cancelled:
            break
    assert turns > 2


async def test_a_load_cancelled_at_any_await_lets_the_directory_go(story, tmp_path):
    first = FilePersistence(tmp_path)
    await first.load()
    await first.append(story.records(1, 5), story.schema)
    await first.save(story.snapshot(3), keep_since=0)
    await first.aclose()
    files = Counting()
    for turns in moments():
        persistence = FilePersistence(tmp_path, filesystem=files)
        cancelled = await cancelled_after(persistence.load(), turns)
        if cancelled:
            assert (await persistence.load()).head.version == 5
        await persistence.append([story.record(6)], story.schema)
        await persistence.aclose()
        await files.quiet()
        if not cancelled:
            break
        assert await restored(tmp_path, story)
    assert turns > 2


async def restored(directory, story):
    """Go back to five versions, so that every round begins with the same."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()
    persistence = FilePersistence(directory)
    await persistence.load()
    await persistence.append(story.records(1, 5), story.schema)
    await persistence.save(story.snapshot(5), keep_since=0)
    await persistence.aclose()
    return True


async def test_a_load_that_fails_while_it_prepares_lets_the_directory_go(story):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    files.fail("sync_directory")
    with pytest.raises(Exception, match="cannot be recovered"):
        await persistence.load()
    assert await persistence.load() is None
    await persistence.aclose()


async def test_a_close_cancelled_at_any_await_goes_on_and_releases_the_directory(story, tmp_path):
    version = 0
    for turns in moments():
        persistence = FilePersistence(tmp_path, durability="interval")
        await persistence.load()
        version += 1
        await persistence.append([story.record(version)], story.schema)
        cancelled = await cancelled_after(persistence.aclose(), turns)
        await persistence.aclose()
        if not cancelled:
            break
    again = FilePersistence(tmp_path)
    assert (await again.load()).head.version == version
    await again.aclose()


@pytest.mark.parametrize("reading", ["changes", "follow", "load"])
async def test_a_reader_cancelled_at_any_await_keeps_no_file_open(story, tmp_path, reading):
    writer = FilePersistence(tmp_path)
    await writer.load()
    await writer.append(story.records(1, 5), story.schema)
    files = Counting()
    reader = FilePersistence(tmp_path, read_only=True, filesystem=files)

    async def read():
        if reading == "load":
            return (await reader.load()).head.version
        iterator = reader.changes(0) if reading == "changes" else reader.follow(0, poll_interval=0.001)
        async with contextlib.aclosing(iterator):
            async for record in iterator:
                if record.version == 5:
                    break
        return 5

    for turns in moments():
        cancelled = await cancelled_after(read(), turns)
        await files.quiet()
        if not cancelled:
            break
    assert turns > 1
    assert await read() == 5
    await writer.aclose()


async def test_a_failure_that_nobody_waits_for_any_more_is_logged(caplog):
    async def fails():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise OSError(5, "the disk is gone")

    with caplog.at_level(logging.ERROR):
        assert await cancelled_after(finish(fails()), 1)
        for _ in range(5):
            await asyncio.sleep(0)
    assert "the disk is gone" in caplog.text


@pytest.mark.parametrize("version", [6, 9], ids=["other schema", "above the journal"])
@pytest.mark.parametrize("unreadable", [True, False])
async def test_a_snapshot_that_may_have_replaced_another_stops_a_journal_that_does_not_go_with_it(
    story, version, unreadable
):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 6), story.schema)
    files.fail("sync_directory")
    if unreadable:
        files.fail("read_file")
    with pytest.raises(UnknownOutcomeError):
        await persistence.save(story.snapshot(version, LATER if version == 6 else None), keep_since=0)
    with pytest.raises(Exception, match="unknown outcome"):
        await persistence.append([story.record(7)], story.schema)
    await persistence.aclose()
    after = FilePersistence("/d", filesystem=files)
    loaded = await after.load()
    assert loaded.head.version in {6, version}
    assert loaded.head.document == story.document(loaded.head.version)
    assert (await after.verify()).problems == []
    await after.aclose()


async def test_a_snapshot_that_was_not_written_leaves_the_journal_as_it_is(story):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 6), story.schema)
    for schema in (LATER, None):
        files.fail("rename")
        with pytest.raises(Exception, match="could not be written"):
            await persistence.save(story.snapshot(6, schema), keep_since=0)
    await persistence.append([story.record(7)], story.schema)
    await persistence.aclose()
    after = FilePersistence("/d", filesystem=files)
    assert (await after.load()).head.version == 7
    await after.aclose()


async def test_a_save_that_dies_with_its_event_loop_leaves_a_directory_that_opens(story, tmp_path):
    """Nothing is shielded from the end of the loop itself, which cancels every task."""
    persistence = FilePersistence(tmp_path)
    await persistence.load()
    await persistence.append(story.records(1, 6), story.schema)
    saving = asyncio.ensure_future(persistence.save(story.snapshot(6, LATER), keep_since=0))
    for _ in range(3):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    with pytest.raises(Exception, match="unknown outcome"):
        await persistence.append([story.record(7)], story.schema)
    await persistence.aclose()
    after = FilePersistence(tmp_path)
    assert (await after.load()).head.version == 6
    await after.aclose()
