from __future__ import annotations

import pytest

from reactstate.codec import AesGcmEncryption
from reactstate.errors import CodecError, CorruptionError, ReactStateError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.frames import walk
from reactstate.persistence.names import segment_file, snapshot_file
from reactstate.persistence.recovery import Archive
from reactstate.persistence.sealing import Sealing
from reactstate.testing.faults import FaultyFileSystem

ENDS = [60, 120, 199, 200]
WAYS = [
    ("json", "none", False),
    ("msgpack", "none", False),
    ("cbor", "none", False),
    ("json", "zstd", False),
    ("msgpack", "zstd", False),
    ("cbor", "zstd", False),
    ("json", "zstd", True),
]


def encryption(wanted):
    return AesGcmEncryption({"k": b"0" * 32}, "k") if wanted else None


async def written(story, way, *, keep_since=None):
    files = FaultyFileSystem()
    persistence = FilePersistence("/d", way[0], way[1], encryption=encryption(way[2]), filesystem=files)
    await persistence.load()
    first = 1
    for end in ENDS:
        await persistence.append(story.records(first, end), story.schema)
        first = end + 1
    if keep_since is not None:
        await persistence.save(story.snapshot(200), keep_since=keep_since)
    await persistence.aclose()
    return files


async def outcome(files, way):
    archive = Archive(files, "/d", Sealing(way[0], way[1], encryption(way[2])))
    try:
        recovered = await archive.load(archive.scan(), 10)
    except (CorruptionError, CodecError) as exc:
        return exc
    return recovered.loaded.head if recovered is not None else None


def places(data, frames, *, every):
    """Every offset, or every one near a boundary and each 11th between."""
    if every:
        return range(len(data))
    edges = [0, len(data), *[frame.offset for frame in frames]]
    near = {place for edge in edges for place in range(edge - 8, edge + 60)}
    return sorted(place for place in {*near, *range(0, len(data), 11)} if 0 <= place < len(data))


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_journal_cut_anywhere_loads_as_an_older_prefix_or_not_at_all(story, way):
    files = await written(story, way)
    path = "/d/" + segment_file(1)
    data = files.contents(path)
    frames = walk(data, 1, 44 + int.from_bytes(data[32:36], "little")).frames
    known = {0: None, **{end: story.document(end) for end in ENDS}}
    for size in places(data, frames, every=way[1] == "zstd"):
        files.put(path, data[:size])
        head = await outcome(files, way)
        assert head is None or not isinstance(head, ReactStateError)
        whole = [frame for frame in frames if frame.end <= size]
        version = ENDS[len(whole) - 1] if whole else 0
        assert (head.version if head is not None else 0) == version
        assert head is None or head.document == known[version]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_flipped_bit_anywhere_is_an_error_or_costs_the_last_frame_only(story, way):
    files = await written(story, way)
    path = "/d/" + segment_file(1)
    data = files.contents(path)
    frames = walk(data, 1, 44 + int.from_bytes(data[32:36], "little")).frames
    before_last = story.document(199)
    for place in places(data, frames, every=way[1] == "zstd"):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << (place % 8)
        files.put(path, bytes(spoilt))
        head = await outcome(files, way)
        if place >= frames[-1].offset:
            assert not isinstance(head, ReactStateError)
            assert (head.version, head.document) == (199, before_last)
        else:
            assert isinstance(head, CorruptionError)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[5], WAYS[6]], ids=str)
@pytest.mark.parametrize("kept", [True, False])
async def test_a_damaged_newest_snapshot_is_bridged_by_the_journal_or_an_error(story, way, kept):
    files = await written(story, way, keep_since=0 if kept else 200)
    path = "/d/" + snapshot_file(200)
    data = files.contents(path)
    document = story.document(200)
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << (place % 8)
        for damaged in (bytes(spoilt), data[:place]):
            files.put(path, damaged)
            head = await outcome(files, way)
            if kept:
                assert (head.version, head.document) == (200, document)
            else:
                assert isinstance(head, CorruptionError)


async def test_damage_is_reported_with_its_place_and_leaves_every_byte(story):
    files = await written(story, WAYS[0])
    path = "/d/" + segment_file(1)
    data = bytearray(files.contents(path))
    frames = walk(bytes(data), 1, 44 + int.from_bytes(data[32:36], "little")).frames
    data[frames[1].start + 5] ^= 4
    files.put(path, bytes(data))
    persistence = FilePersistence("/d", filesystem=files)
    with pytest.raises(CorruptionError) as caught:
        await persistence.load()
    assert (caught.value.path, caught.value.offset) == (path, frames[1].offset)
    assert files.contents(path) == data
    await persistence.aclose()


async def test_a_torn_tail_is_cut_off_reported_and_written_over(story, caplog):
    files = await written(story, WAYS[0])
    path = "/d/" + segment_file(1)
    files.put(path, files.contents(path)[:-3])
    persistence = FilePersistence("/d", filesystem=files)
    loaded = await persistence.load()
    assert loaded.head.version == 199
    assert loaded.dropped_bytes > 0
    assert "torn tail" in caplog.text
    await persistence.append([story.record(200)], story.schema)
    await persistence.aclose()
    again = FilePersistence("/d", filesystem=files)
    loaded = await again.load()
    assert (loaded.head.version, loaded.dropped_bytes) == (200, 0)
    await again.aclose()


async def test_a_wrong_or_missing_key_is_an_error_that_changes_nothing(story):
    files = await written(story, ("json", "none", True))
    before = {path: files.contents(path) for path in files.paths()}
    for keys in (None, AesGcmEncryption({"k": b"1" * 32}, "k"), AesGcmEncryption({"other": b"0" * 32}, "other")):
        persistence = FilePersistence("/d", encryption=keys, filesystem=files)
        with pytest.raises(CodecError):
            await persistence.load()
        await persistence.aclose()
    assert {path: files.contents(path) for path in files.paths()} == before


async def test_a_payload_that_imitates_a_header_is_not_taken_for_proof(story):
    files = await written(story, WAYS[0])
    path = "/d/" + segment_file(1)
    data = bytearray(files.contents(path))
    frames = walk(bytes(data), 1, 44 + int.from_bytes(data[32:36], "little")).frames
    assert len(frames) == len(ENDS)
    data[-1] ^= 1
    data += b"RSf\x1a" + bytes(60)
    files.put(path, bytes(data))
    assert (await outcome(files, WAYS[0])).version == 199


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


async def test_a_missing_snapshot_is_an_error_when_nothing_leads_around_it(story):
    files = await written(story, WAYS[0], keep_since=200)
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
