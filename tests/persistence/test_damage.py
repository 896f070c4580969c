from __future__ import annotations

import pytest

from reactstate.codec import AesGcmEncryption
from reactstate.errors import CodecError, CorruptionError, ReactStateError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.frames import walk
from reactstate.persistence.names import segment_file, snapshot_file
from reactstate.persistence.protocol import Record, Snapshot
from reactstate.persistence.recovery import Archive
from reactstate.persistence.sealing import Sealing
from reactstate.state.patch import apply_patch
from reactstate.testing.faults import FaultyFileSystem

ENDS = [60, 110, 150, 180, 200]
SCHEMA = {"n": 1}
WAYS = [
    ("json", "none", False),
    ("msgpack", "none", False),
    ("cbor", "none", False),
    ("json", "zstd", False),
    ("msgpack", "zstd", False),
    ("cbor", "zstd", False),
    ("json", "zstd", True),
]
PARTS = 3
CHUNKS = [(way, part) for way in WAYS for part in range(PARTS)]
KEYS = AesGcmEncryption({"k": b"0" * 32}, "k")


def encryption(wanted):
    return KEYS if wanted else None


def document(version):
    return {"n": version} if version else None


def record(version):
    """The smallest change that tells one version from another, so that every byte of a journal can be tried."""
    path, value = ("/n", version) if version > 1 else ("", document(1))
    patch = [{"op": "replace", "path": path, "value": value}]
    return Record(version, f"{version:x}", version, "update", None, None, None, None, patch)


async def written(way, *, keep_since=None):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", way[0], way[1], encryption=encryption(way[2]), filesystem=files)
    await persistence.load()
    first = 1
    for end in ENDS:
        await persistence.append([record(version) for version in range(first, end + 1)], SCHEMA)
        first = end + 1
    if keep_since is not None:
        snapshot = Snapshot(200, document(200), SCHEMA, "c8", 1, 200)
        await persistence.save(snapshot, keep_since=keep_since)
    await persistence.put_blob("note", b"remember")
    await persistence.aclose()
    return files


def framed(files):
    path = "/d/" + segment_file(1)
    data = files.contents(path)
    return path, data, walk(data, 1, 44 + int.from_bytes(data[32:36], "little")).frames


def reading(files, way):
    """Return what loads the directory, without the lock and the thread that a writer has."""
    archive = Archive(files, "/d", Sealing(way[0], way[1], encryption(way[2])))

    async def load():
        try:
            recovered = await archive.load(archive.scan(), 1)
        except (CorruptionError, CodecError) as exc:
            return exc
        return recovered.loaded if recovered is not None else None

    return load


def is_version(loaded, version):
    """Whether *loaded* is exactly *version*: its number, its document, and its newest record with the way back."""
    if version == 0:
        return loaded is None or (loaded.head.version, loaded.head.document) == (0, None)
    if isinstance(loaded, ReactStateError):
        return False
    head, newest = loaded.head, loaded.history[-1].records[-1]
    return (head.version, head.document, head.updated_at_ns) == (version, document(version), version) and (
        newest.version == version and apply_patch(head.document, newest.inverse) == document(version - 1)
    )


def flips(data, part, parts):
    """Yield every *parts*-th place from *part* on, and the bytes with one bit flipped there, each time another."""
    spoilt = bytearray(data)
    for place in range(part, len(data), parts):
        bit = 1 << (place * 5 + place // 8) % 8
        spoilt[place] ^= bit
        yield place, bytes(spoilt)
        spoilt[place] ^= bit


@pytest.mark.parametrize(("way", "part"), CHUNKS, ids=str)
async def test_a_journal_cut_at_any_byte_loads_as_exactly_the_flushes_that_are_whole(way, part):
    files = await written(way)
    path, data, frames = framed(files)
    assert len(frames) == len(ENDS)
    load = reading(files, way)
    for size in range(part, len(data), PARTS):
        files.put(path, data[:size])
        whole = sum(frame.end <= size for frame in frames)
        assert is_version(await load(), ENDS[whole - 1] if whole else 0), size


@pytest.mark.parametrize(("way", "part"), CHUNKS, ids=str)
async def test_a_bit_flipped_in_any_byte_of_a_journal_is_an_error_or_costs_the_last_flush_only(way, part):
    files = await written(way)
    path, data, frames = framed(files)
    load = reading(files, way)
    for place, spoilt in flips(data, part, PARTS):
        files.put(path, spoilt)
        loaded = await load()
        if place < frames[-1].offset:
            assert isinstance(loaded, CorruptionError), place
        else:
            assert is_version(loaded, ENDS[-2]), place


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "compacted"])
async def test_a_newest_snapshot_damaged_at_any_byte_is_bridged_by_the_journal_or_an_error(way, kept):
    files = await written(way, keep_since=0 if kept else 200)
    path = "/d/" + snapshot_file(200)
    data = files.contents(path)
    load = reading(files, way)
    for place, spoilt in flips(data, 0, 1):
        for damaged in (spoilt, data[:place]):
            files.put(path, damaged)
            loaded = await load()
            assert is_version(loaded, 200) if kept else isinstance(loaded, CorruptionError), place


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_newer_segment_damaged_at_any_byte_is_an_error_or_as_if_it_were_not_there_yet(way):
    files = await written(way, keep_since=0)
    path = "/d/" + segment_file(2)
    data = files.contents(path)
    load = reading(files, way)
    for place, spoilt in flips(data, 0, 1):
        for damaged in (spoilt, data[:place]):
            files.put(path, damaged)
            loaded = await load()
            assert is_version(loaded, 200), place


@pytest.mark.parametrize("way", [WAYS[0], WAYS[6]], ids=str)
async def test_a_blob_damaged_at_any_byte_is_an_error(way):
    files = await written(way)
    path = "/d/blobs/note.rsb"
    data = files.contents(path)
    reader = FilePersistence("/d", encryption=encryption(way[2]), filesystem=files, read_only=True)
    assert await reader.get_blob("note") == b"remember"
    for place, spoilt in flips(data, 0, 1):
        for damaged in (spoilt, data[:place]):
            files.put(path, damaged)
            with pytest.raises(CorruptionError):
                await reader.get_blob("note")


async def test_a_published_offset_damaged_at_any_byte_shows_readers_only_what_is_proven_durable():
    files = await written(WAYS[0])
    data = files.contents("/d/durable")
    for place, spoilt in flips(data, 0, 1):
        for damaged in (spoilt, data[:place]):
            files.put("/d/durable", damaged)
            loaded = await FilePersistence("/d", filesystem=files, read_only=True).load(history=1)
            assert is_version(loaded, ENDS[-2]), place


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_writer_goes_on_after_a_journal_was_cut_at_any_frame(way):
    whole = await written(way)
    path, data, frames = framed(whole)
    for place in {near for frame in frames for near in (frame.offset - 1, frame.offset, frame.start, frame.end - 1)}:
        files = whole.copy()
        files.put(path, data[:place])
        for more in (1, 2):
            persistence = FilePersistence("/d", way[0], way[1], encryption=encryption(way[2]), filesystem=files)
            loaded = await persistence.load(history=1)
            version = loaded.head.version if loaded is not None else 0
            if more == 1:
                before = version
            assert is_version(loaded, before + more - 1), place
            await persistence.append([record(version + 1)], SCHEMA)
            await persistence.aclose()


async def test_damage_is_reported_with_its_place_and_leaves_every_byte():
    files = await written(WAYS[0])
    path, whole, frames = framed(files)
    data = bytearray(whole)
    data[frames[1].start + 5] ^= 4
    files.put(path, bytes(data))
    persistence = FilePersistence("/d", filesystem=files)
    with pytest.raises(CorruptionError) as caught:
        await persistence.load()
    assert (caught.value.path, caught.value.offset) == (path, frames[1].offset)
    assert files.contents(path) == data
    await persistence.aclose()


async def test_a_torn_tail_is_cut_off_reported_and_written_over(caplog):
    files = await written(WAYS[0])
    path = "/d/" + segment_file(1)
    files.put(path, files.contents(path)[:-3])
    persistence = FilePersistence("/d", filesystem=files)
    loaded = await persistence.load()
    assert loaded.head.version == 180
    assert loaded.dropped_bytes > 0
    assert "torn tail" in caplog.text
    await persistence.append([record(181)], SCHEMA)
    await persistence.aclose()
    again = FilePersistence("/d", filesystem=files)
    loaded = await again.load()
    assert (loaded.head.version, loaded.dropped_bytes) == (181, 0)
    await again.aclose()


async def test_a_wrong_or_missing_key_is_an_error_that_changes_nothing():
    files = await written(("json", "none", True))
    before = {path: files.contents(path) for path in files.paths()}
    for keys in (None, AesGcmEncryption({"k": b"1" * 32}, "k"), AesGcmEncryption({"other": b"0" * 32}, "other")):
        persistence = FilePersistence("/d", encryption=keys, filesystem=files)
        with pytest.raises(CodecError):
            await persistence.load()
        await persistence.aclose()
    assert {path: files.contents(path) for path in files.paths()} == before


async def test_a_payload_that_imitates_a_header_is_not_taken_for_proof():
    files = await written(WAYS[0])
    path, whole, _ = framed(files)
    data = bytearray(whole)
    data[-1] ^= 1
    data += b"RSf\x1a" + bytes(60)
    files.put(path, bytes(data))
    assert is_version(await reading(files, WAYS[0])(), 180)


async def test_a_missing_segment_is_an_error(story):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    for version in (1, 2, 3):
        await persistence.append([story.record(version)], story.schema)
        await persistence.save(story.snapshot(version), keep_since=0)
    await persistence.append([story.record(4)], story.schema)
    await persistence.aclose()
    files.remove("/d/" + segment_file(2))
    with pytest.raises(CorruptionError):
        await FilePersistence("/d", filesystem=files).load()


@pytest.mark.parametrize(
    ("document", "first", "count"),
    [
        ([1, 2], 3, 1),
        ([9] * 9, 3, 1),
        ([3, "x", "t", "update", None, None, None, None, []], 3, 1),
        (None, 3, 2),
        ("gap", 9, 1),
    ],
)
async def test_records_of_a_wrong_shape_are_corruption(story, document, first, count):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 2), story.schema)
    sealing = persistence._sealing
    if isinstance(document, list):
        data = sealing.codec.encode_document(document)
        payload = len(data).to_bytes(4, "little") + data
    else:
        payload = sealing.encode_record(story.record(first))
    persistence._journal.write(first, count, payload)
    await persistence.aclose()
    with pytest.raises(CorruptionError):
        await FilePersistence("/d", filesystem=files).load()


async def test_a_missing_snapshot_is_an_error_when_nothing_leads_around_it():
    files = await written(WAYS[0], keep_since=200)
    files.remove("/d/" + snapshot_file(200))
    with pytest.raises(CorruptionError):
        await FilePersistence("/d", filesystem=files).load()
    with pytest.raises(CorruptionError):
        [record async for record in FilePersistence("/d", filesystem=files, read_only=True).changes(200)]


async def test_a_long_schema_tag_is_read_whole(story):
    schema = {f"type-{number}" * 10: number for number in range(300)}
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 2), schema)
    await persistence.aclose()
    again = FilePersistence("/d", filesystem=files)
    assert (await again.load()).head.schema == schema
    await again.aclose()


async def test_reading_a_long_journal_lets_the_event_loop_breathe(story):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", durability="never", filesystem=files)
    await persistence.load()
    await persistence.append(story.records(1, 4500), story.schema)
    await persistence.aclose()
    again = FilePersistence("/d", filesystem=files)
    assert (await again.load(history=0)).head.version == 4500
    await again.aclose()
