from __future__ import annotations

import pytest

from reactstate.codec import AesGcmEncryption
from reactstate.errors import CorruptionError, DecryptionError, ReadOnlyError, StorageError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.names import segment_file, snapshot_file
from reactstate.testing.faults import FaultyFileSystem

LATER = {"cart": 2}


async def written(story):
    """Three segments: 1 to 10, 11 to 20, and 21 to 30 under a later schema."""
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    for version in range(1, 11):
        await persistence.append([story.record(version)], story.schema)
    await persistence.save(story.snapshot(10), keep_since=0)
    for version in range(11, 21):
        await persistence.append([story.record(version)], story.schema)
    await persistence.save(story.snapshot(20, LATER), keep_since=0)
    for version in range(21, 31):
        await persistence.append([story.record(version)], LATER)
    await persistence.put_blob("one", b"1")
    await persistence.put_blob("two", b"2")
    await persistence.aclose()
    return files


def spoil(files, name, place):
    path = "/d/" + name
    data = bytearray(files.contents(path))
    data[place] ^= 1
    files.put(path, bytes(data))


def damaged(files):
    return FilePersistence("/d", filesystem=files)


async def opened(files, path):
    persistence = FilePersistence(path, filesystem=files)
    loaded = await persistence.load()
    assert (await persistence.verify()).problems == []
    blobs = [info.name for info in await persistence.list_blobs()]
    await persistence.aclose()
    return loaded, blobs


async def test_verify_counts_everything_of_a_whole_directory(story):
    files = await written(story)
    calls = {path: files.contents(path) for path in files.paths()}
    report = await damaged(files).verify()
    assert (report.records, report.frames, report.snapshots, report.blobs) == (30, 30, 2, 2)
    assert report.problems == []
    assert report.bytes > 1000
    assert "problems=[]" in repr(report)
    assert {path: files.contents(path) for path in files.paths()} == calls


async def test_verify_finds_damage_everywhere(story):
    files = await written(story)
    spoil(files, segment_file(2), -100)
    spoil(files, segment_file(3), 300)
    spoil(files, snapshot_file(10), -1)
    spoil(files, "blobs/one.rsb", -1)
    problems = (await damaged(files).verify()).problems
    paths = {problem.path for problem in problems}
    assert {"/d/" + name for name in (segment_file(2), segment_file(3), snapshot_file(10), "blobs/one.rsb")} <= paths
    assert all(isinstance(problem, CorruptionError) for problem in problems)


async def test_verify_finds_missing_files_and_snapshots_that_do_not_agree(story):
    files = await written(story)
    files.remove("/d/" + segment_file(2))
    assert (await damaged(files).verify()).problems
    files = await written(story)
    spoil(files, segment_file(1), 10)
    assert (await damaged(files).verify()).problems
    files = FaultyFileSystem()
    persistence = damaged(files)
    await persistence.load()
    await persistence.append(story.records(1, 4), story.schema)
    wrong = story.snapshot(4)
    wrong.document = {"other": True}
    await persistence.save(wrong, keep_since=0)
    assert len((await persistence.verify()).problems) == 1
    await persistence.save(story.snapshot(4), keep_since=4)
    assert (await persistence.verify()).problems == []
    await persistence.aclose()
    files.remove("/d/" + snapshot_file(4))
    assert len((await damaged(files).verify()).problems) == 1


async def test_recover_copies_a_whole_directory_with_its_history(story):
    files = await written(story)
    report = await damaged(files).recover(to="/new")
    assert (report.version, report.records, report.blobs, report.lost, report.problems) == (30, 30, 2, [], [])
    loaded, blobs = await opened(files, "/new")
    assert loaded.head.document == story.document(30)
    assert [len(era.records) for era in loaded.history] == [20, 10]
    assert blobs == ["one", "two"]
    assert "version=30" in repr(report)


async def test_recover_goes_from_the_newest_snapshot_to_the_damage(story):
    files = await written(story)
    spoil(files, segment_file(3), 400)
    spoil(files, segment_file(1), 300)
    spoil(files, "blobs/one.rsb", -1)
    report = await damaged(files).recover(to="/new")
    loaded, blobs = await opened(files, "/new")
    assert 20 <= report.version < 30
    assert loaded.head.version == report.version
    assert loaded.head.document == story.document(report.version)
    assert blobs == ["two"]
    assert report.records == report.version - 10
    assert report.lost[-1] == (report.version + 1, 30)
    assert len(report.problems) == 3


async def test_recover_uses_an_older_snapshot_when_the_newest_is_damaged(story):
    files = await written(story)
    spoil(files, snapshot_file(20), -1)
    report = await damaged(files).recover(to="/new")
    loaded, _ = await opened(files, "/new")
    assert (report.version, report.lost) == (20, [(21, 30)])
    assert loaded.head.document == story.document(20)


async def test_recover_stops_before_a_patch_that_does_not_fit(story):
    files = FaultyFileSystem()
    persistence = damaged(files)
    await persistence.load()
    await persistence.append(story.records(1, 3), story.schema)
    record = story.record(4)
    record.patch = [{"op": "remove", "path": "/nothing"}]
    await persistence.append([record], story.schema)
    report = await persistence.recover(to="/new")
    assert (report.version, report.lost) == (3, [(4, 4)])
    await persistence.aclose()


async def test_recover_saves_blobs_even_when_no_state_is_whole(story):
    files = FaultyFileSystem()
    persistence = damaged(files)
    await persistence.load()
    await persistence.put_blob("one", b"1")
    await persistence.aclose()
    report = await damaged(files).recover(to="/new")
    assert (report.version, report.blobs, report.lost) == (0, 1, [])


async def test_recover_refuses_a_target_that_is_not_empty_and_a_source_that_is(story):
    files = await written(story)
    with pytest.raises(StorageError):
        await damaged(files).recover(to="/d")
    files.put("/file", b"")
    with pytest.raises(StorageError):
        await FilePersistence("/none", filesystem=files).recover(to="/new")
    files.make_directory("/empty")
    with pytest.raises(StorageError):
        await FilePersistence("/empty", filesystem=files).recover(to="/new")
    files.fail("list_directory")
    with pytest.raises(StorageError):
        await damaged(files).recover(to="/other")


async def test_a_torn_tail_or_a_torn_new_segment_is_no_damage_but_both_are(story):
    files = await written(story)
    torn_segment = files.copy()
    torn_segment.put("/d/" + segment_file(4), b"RSj")
    assert (await damaged(torn_segment).verify()).problems == []
    both = torn_segment.copy()
    for torn in (files, both):
        path = "/d/" + segment_file(3)
        torn.put(path, torn.contents(path)[:-4])
    assert (await damaged(files).verify()).problems == []
    assert len((await damaged(both).verify()).problems) == 1
    with pytest.raises(CorruptionError):
        await damaged(both).load()
    assert (await opened(files, "/d"))[0].head.version == 29
    assert (await opened(torn_segment, "/d"))[0].head.version == 30
    assert "/d/" + segment_file(4) not in torn_segment.paths()


KEYS = AesGcmEncryption({"k": b"0" * 32}, "k")


async def test_a_directory_in_the_clear_is_refused_under_keys_and_copied_into_an_encrypted_one(story):
    files = await written(story)
    before = {path: files.contents(path) for path in files.paths()}
    with pytest.raises(DecryptionError, match="recover") as caught:
        await FilePersistence("/d", encryption=KEYS, filesystem=files).load()
    assert isinstance(caught.value.__cause__, DecryptionError)
    with pytest.raises(DecryptionError, match="recover"):
        await FilePersistence("/d", encryption=KEYS, filesystem=files).get_blob("one")
    target = FilePersistence("/new", "msgpack", "zstd", encryption=KEYS, filesystem=files)
    report = await damaged(files).recover(to=target)
    assert (report.version, report.records, report.blobs, report.lost, report.problems) == (30, 30, 2, [], [])
    assert {path: data for path, data in before.items() if files.contents(path) != data} == {}
    safe = FilePersistence("/new", encryption=KEYS, filesystem=files)
    loaded = await safe.load()
    assert (loaded.head.version, loaded.head.document) == (30, story.document(30))
    assert [len(era.records) for era in loaded.history] == [20, 10]
    assert await safe.get_blob("one") == b"1"
    assert (await safe.verify()).problems == []
    await safe.append([story.record(31)], LATER)
    await safe.aclose()
    with pytest.raises(DecryptionError):
        await FilePersistence("/new", filesystem=files).load()
    back = await FilePersistence("/new", encryption=KEYS, filesystem=files).recover(
        to=FilePersistence("/clear", filesystem=files)
    )
    assert (back.version, back.lost) == (31, [])
    assert (await opened(files, "/clear"))[0].head.document == story.document(31)


async def test_recover_refuses_a_persistence_that_only_reads_or_is_not_empty(story):
    files = await written(story)
    with pytest.raises(ReadOnlyError):
        await damaged(files).recover(to=FilePersistence("/new", filesystem=files, read_only=True))
    with pytest.raises(StorageError):
        await damaged(files).recover(to=damaged(files))
