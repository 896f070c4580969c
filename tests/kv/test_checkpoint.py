from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import stat
import struct
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    ConflictError,
    CorruptionError,
    LimitExceededError,
    SchemaVersionError,
    StorageError,
    UnsupportedError,
)
from reactstate.kv.checkpoint import summarize_checkpoint, verify_checkpoint
from reactstate.kv.checkpoint_file import CheckpointReader, CheckpointWriter, Chunk
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Batch, Capability, Delete, Limits, Put, Step
from reactstate.kv.store import KeyValueStore
from reactstate.kv.urls import open_store

ENGINES = ["memory", "sqlite", "lmdb"]
SAMPLE = {
    "a": b"",
    "a\0b": b"\0\xff",
    "a/b": b"1" * 300,
    "schlüssel/ß": "wörter".encode(),
    "日本": b"v",
    "🙂": b"smile",
    **{f"n/{i:04}": str(i).encode() for i in range(50)},
}

FILE = (
    "52536b1a010041000000f1d310ce7b22637265617465645f6e73223a313730303030303030303030303030303030302c2265"
    "6e67696e65223a226d656d6f7279222c227265766973696f6e223a377d5253631a0200000036000000000000003600000000"
    "0000001a9ada8d0a00000000000000015b2261222c22c39f225d010000000000000002000000000000000000000000000000"
    "00505c18a30100003132325253651a02000000000000000100000000000000020000000000000002000000000000001a9ada"
    "8d060c2b9b"
)


def memory(clock=None, cls=MemoryStore):
    return cls(options=StoreOptions(), clock=clock or ManualClock())


def opened(engine, folder, clock=None):
    url = "memory:" if engine == "memory" else f"{engine}:{folder}/{engine}-store"
    return open_store(url, clock=clock or ManualClock())


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


async def contents(store):
    return {entry.key: (entry.value, entry.expires_at) async for entry in store.scan()}


async def filled(store, entries):
    for key, value in entries.items():
        await store.put(key, value)
    return store


async def newest(store):
    return (await store.commit((Step("nothing", Delete()),))).revision


async def small_file(folder, entries=None, **options):
    path = folder / "small.checkpoint"
    await (await filled(memory(), entries or {"a": b"1", "b": b"22"})).checkpoint(path, **options)
    return path


class ByCommits(MemoryStore):
    """An engine without a bulk path, and with small limits."""

    limits = Limits(max_key_bytes=60, max_value_bytes=400, max_steps=4, max_commit_bytes=500)
    _load = KeyValueStore._load


# --- any engine in, any engine out ------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
async def test_any_engine_restores_what_any_engine_wrote(tmp_path, source, target, compress):
    clock = ManualClock()
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    async with opened(source, tmp_path / "from", clock) as store:
        await filled(store, SAMPLE)
        await store.put("timed", b"soon gone", ttl=60)
        await store.delete("a/b")
        before, revision = await contents(store), await newest(store)
        size = await store.checkpoint(tmp_path / "file", compress=compress)
    assert size == (tmp_path / "file").stat().st_size
    assert names_in(tmp_path) == ["file", "from", "to"]
    async with opened(target, tmp_path / "to", clock) as store:
        assert await store.restore(tmp_path / "file") == len(before)
        assert await contents(store) == before
        assert all([entry.revision > revision async for entry in store.scan()])
        again = await store.put("after", b"")
        assert again.revision > revision
        assert await store.list_keys("schl") == ["schlüssel/ß"]
        clock.advance(60)
        assert await store.get("timed") is None


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), st.binary(max_size=50), max_size=30
    ),
    st.booleans(),
    st.sampled_from([1, 3, 10_000]),
    st.sampled_from([1, 40, 4 << 20]),
)
def test_whatever_is_stored_comes_back(entries, compress, chunk_entries, chunk_bytes):
    async def story(path):
        store = await filled(memory(), entries)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", chunk_entries)
            patch.setattr("reactstate.kv.checkpoint._CHUNK_BYTES", chunk_bytes)
            await store.checkpoint(path, compress=compress)
        summary = await verify_checkpoint(path)
        assert summary.entries == len(entries)
        assert summary.max_key_bytes == max((len(key.encode()) for key in entries), default=0)
        assert summary.max_value_bytes == max(map(len, entries.values()), default=0)
        other = memory()
        assert await other.restore(path) == len(entries)
        assert {key: value for key, (value, _) in (await contents(other)).items()} == entries

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder) / "file"))


async def test_a_summary_tells_when_of_what_and_how_much(tmp_path):
    clock = ManualClock(datetime(2030, 5, 17, 12, 30, 1, 250, tzinfo=UTC))
    store = await filled(memory(clock), {"key": b"value", "k": b""})
    size = await store.checkpoint(tmp_path / "file")
    for summary in (summarize_checkpoint(tmp_path / "file"), await verify_checkpoint(str(tmp_path / "file"))):
        assert summary.created_at == datetime(2030, 5, 17, 12, 30, 1, 250, tzinfo=UTC)
        assert (summary.engine, summary.entries, summary.size_bytes) == ("memory", 2, size)
        assert (summary.revision, summary.max_key_bytes, summary.max_value_bytes) == (await newest(store), 3, 5)
        assert "entries=2" in repr(summary)


async def test_an_empty_store_makes_a_checkpoint_that_empties(tmp_path):
    path = tmp_path / "file"
    await memory().checkpoint(path)
    store = await filled(memory(), SAMPLE)
    assert await store.restore(path, replace=True) == 0
    assert await contents(store) == {}


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_a_checkpoint_beside_transfers_holds_the_right_total(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 50)
    accounts, going = 1000, True
    async with opened(engine, tmp_path) as store:
        await store.commit([Step(f"account/{i:04}", Put(b"100")) for i in range(accounts)])

        async def transfer(seed):
            dice = random.Random(seed)
            count = 0
            while going:
                await asyncio.sleep(0)  # a store in memory never waits by itself
                names = [f"account/{i:04}" for i in dice.sample(range(accounts), 2)]
                found = await store.get_many(names)
                amount = dice.randint(1, 50)
                steps = [
                    Step(name, Put(b"%d" % (int(found[name].value) + delta)), found[name].revision)
                    for name, delta in zip(names, (-amount, amount), strict=True)
                ]
                with contextlib.suppress(ConflictError):
                    await store.commit(steps)
                    count += 1
            return count

        tasks = [asyncio.create_task(transfer(seed)) for seed in range(8)]
        for turn in range(5):
            before = await store.cursor()
            await store.checkpoint(tmp_path / f"file{turn}")
            assert await store.cursor() != before, "the writers went on"
        going = False
        assert sum(await asyncio.gather(*tasks)) > 0
    for turn in range(5):
        async with memory() as other:
            assert await other.restore(tmp_path / f"file{turn}") == accounts
            assert sum([int(entry.value) async for entry in other.scan()]) == accounts * 100


async def test_a_checkpoint_holds_nothing_that_was_committed_after_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 1)
    store = await filled(memory(), {"a": b"1", "b": b"1", "c": b"1"})
    writes = []

    def write_at_once(done):
        writes.append(
            asyncio.ensure_future(store.commit([Step("c", Put(b"2")), Step("d", Put(b"2")), Step("b", Delete())]))
        )

    await store.checkpoint(tmp_path / "file", progress=write_at_once)
    await asyncio.gather(*writes)
    other = memory()
    await other.restore(tmp_path / "file")
    assert await contents(other) == {"a": (b"1", None), "b": (b"1", None), "c": (b"1", None)}


# --- files ------------------------------------------------------------------------------------------------------


async def test_the_file_is_private_and_replaces_the_one_before(tmp_path):
    path = tmp_path / "file"
    store = await filled(memory(), {"a": b"1"})
    await store.checkpoint(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.put("b", b"2")
    await asyncio.gather(*(store.checkpoint(path) for _ in range(4)))
    assert (await verify_checkpoint(path)).entries == 2
    assert names_in(tmp_path) == ["file"]


async def test_a_relative_path_is_of_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await memory().checkpoint("file")
    assert names_in(tmp_path) == ["file"]


async def test_a_path_that_cannot_be_written_is_a_storage_error_with_its_cause(tmp_path):
    store = await filled(memory(), SAMPLE)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "file", tmp_path / "folder"):
        with pytest.raises(StorageError) as caught:
            await store.checkpoint(path)
        assert caught.value.path == str(path)
        assert isinstance(caught.value.__cause__, OSError)
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == []


async def test_a_path_that_cannot_be_read_is_a_storage_error_with_its_cause(tmp_path):
    store = memory()
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(StorageError) as caught:
            await store.restore(path)
        assert caught.value.path == str(path)
        assert isinstance(caught.value.__cause__, OSError)
        assert not isinstance(caught.value, CorruptionError)


@pytest.mark.parametrize("room", [10, 5000, 20_000])
async def test_a_full_disk_leaves_no_file_and_the_one_before(tmp_path, room):
    path = tmp_path / "file"
    store = await filled(memory(), {f"{i}": os.urandom(1000) for i in range(100)})
    await store.checkpoint(path)
    before = path.read_bytes()
    with room_for(room), pytest.raises(StorageError) as caught:
        await store.checkpoint(path)
    assert isinstance(caught.value.__cause__, OSError)
    assert names_in(tmp_path) == ["file"]
    assert path.read_bytes() == before


@contextlib.contextmanager
def room_for(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_an_engine_without_snapshots_is_refused(tmp_path):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    with pytest.raises(UnsupportedError) as caught:
        await memory(cls=Plain).checkpoint(tmp_path / "file")
    assert caught.value.capability == "SNAPSHOT_READS"
    assert names_in(tmp_path) == []


async def test_progress_counts_up_and_what_it_raises_ends_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 10)
    path, told = tmp_path / "file", []
    store = await filled(memory(), {f"{i:02}": b"" for i in range(25)})
    await store.checkpoint(path, progress=told.append)
    assert told == [10, 20, 25]
    told.clear()
    other = memory()
    await other.restore(path, progress=told.append)
    assert told == [10, 20, 25]

    def fail(done):
        raise KeyError(done)

    with pytest.raises(KeyError):
        await store.checkpoint(tmp_path / "other", progress=fail)
    target = await filled(memory(), {"kept": b"1"})
    with pytest.raises(KeyError):
        await target.restore(path, replace=True, progress=fail)
    assert await contents(target) == {"kept": (b"1", None)}
    assert names_in(tmp_path) == ["file"]


# --- cancellation -----------------------------------------------------------------------------------------------


async def cancelled_after(turns, work):
    """Run *work*, cancel it after so many turns of the loop, and say whether it was cancelled."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            break
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def test_a_cancelled_checkpoint_leaves_no_file_and_a_usable_store(tmp_path, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 10)
    store = await filled(memory(), SAMPLE)
    cancelled = 0
    for turns in range(120):
        path = tmp_path / "file"
        cancelled += await cancelled_after(turns, store.checkpoint(path))
        assert names_in(tmp_path) in ([], ["file"]), "it is there whole or not at all"
        if path.exists():
            await verify_checkpoint(path)
            path.unlink()
    assert cancelled > 10
    await store.put("a", b"still")
    assert await store.checkpoint(tmp_path / "file")


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_cancelled_restore_changes_all_or_nothing(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 10)
    path = tmp_path / "file"
    await (await filled(memory(), SAMPLE)).checkpoint(path)
    async with opened(engine, tmp_path) as store:
        await store.put("mine", b"1")
        cancelled = 0
        for turns in range(0, 60, 3):
            cancelled += await cancelled_after(turns, store.restore(path, replace=True))
            if await store.get("mine") is None:
                assert len(await contents(store)) == len(SAMPLE)
                await store.commit([Step(key, Delete()) for key in SAMPLE])
                await store.put("mine", b"1")
            else:
                assert list(await contents(store)) == ["mine"]
        assert cancelled > 3


async def test_a_second_cancellation_still_waits_for_the_threads(tmp_path):
    store = await filled(memory(), SAMPLE)
    for turns in range(1, 30):
        task = asyncio.ensure_future(store.checkpoint(tmp_path / "file"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert names_in(tmp_path) in ([], ["file"])


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
async def test_a_file_cut_at_any_offset_is_refused_and_changes_nothing(tmp_path, compress, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 2)
    path = await small_file(tmp_path, {"a": b"1" * 60, "b": b"22", "c": b"3", "d": b"", "e": b"5"}, compress=compress)
    whole = path.read_bytes()
    store = await filled(memory(), {"kept": b"1"})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptionError) as caught:
            await store.restore(path, replace=True)
        assert caught.value.path == str(path)
        assert caught.value.offset is not None
        assert 0 <= caught.value.offset <= length
        with pytest.raises(CorruptionError):
            summarize_checkpoint(path)
    assert await contents(store) == {"kept": (b"1", None)}


@pytest.mark.parametrize("compress", [True, False])
async def test_a_bit_flipped_anywhere_is_found_and_changes_nothing(tmp_path, compress, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 2)
    path = await small_file(tmp_path, {"a": b"1" * 60, "b": b"22", "c": b"3"}, compress=compress)
    whole = path.read_bytes()
    store = await filled(memory(), {"kept": b"1"})
    for place in range(len(whole)):
        for bit in (0x01, 0x10, 0x80):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            with pytest.raises(CorruptionError) as caught:
                await store.restore(path, replace=True)
            assert caught.value.offset is not None
    assert await contents(store) == {"kept": (b"1", None)}


async def test_frames_that_were_moved_removed_or_repeated_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 1)
    path = await small_file(tmp_path, {"a": b"1", "b": b"2", "c": b"3"}, compress=False)
    whole = path.read_bytes()
    frame = len(whole) - (await small_file(tmp_path, {"a": b"1", "b": b"2"}, compress=False)).stat().st_size
    start = len(whole) - 44 - 3 * frame
    head, footer = whole[:start], whole[-44:]
    first, second, third = (whole[start + n * frame : start + (n + 1) * frame] for n in range(3))
    assert head + first + second + third + footer == whole
    for changed in (
        head + second + first + third + footer,
        head + first + third + footer,
        head + first + second + footer,
        head + first + second + third + third + footer,
        head + footer,
        whole + b"\0",
        whole + footer,
        whole[:-44] + whole,
    ):
        path.write_bytes(changed)
        with pytest.raises(CorruptionError):
            await verify_checkpoint(path)
    path.write_bytes(whole)
    assert (await verify_checkpoint(path)).entries == 3


async def test_a_file_that_becomes_shorter_while_it_is_read_is_damaged(tmp_path):
    path = await small_file(tmp_path)
    reader = CheckpointReader(str(path))
    reader.check()
    os.truncate(path, 60)
    with pytest.raises(CorruptionError) as caught:
        reader.next(0)
    reader.close()
    assert caught.value.offset is not None


def header_of(body, layout=1):
    start = b"RSk\x1a" + struct.pack("<HI", layout, len(body))
    return start + struct.pack("<I", crc32(body, crc32(start))) + body


async def test_a_file_of_a_newer_layout_is_named_so(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(header_of(b"whatever they need", layout=2))
    with pytest.raises(SchemaVersionError) as caught:
        await memory().restore(path)
    assert (caught.value.stored, caught.value.current) == (2, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b"{",
        b"null",
        b'{"engine":"memory","revision":1}',
        b'{"created_ns":true,"engine":"memory","revision":1}',
        b'{"created_ns":0,"engine":1,"revision":1}',
        b'{"created_ns":0,"engine":"memory","revision":-1}',
        b'{"created_ns":0,"engine":"memory","revision":1.5}',
        b'{"created_ns":9223372036854775807000,"engine":"memory","revision":1}',
    ],
)
async def test_a_header_that_says_nonsense_under_a_right_checksum_is_damaged(tmp_path, body):
    path = tmp_path / "file"
    path.write_bytes(header_of(body))
    with pytest.raises(CorruptionError) as caught:
        await verify_checkpoint(path)
    assert caught.value.offset == 0


def columns(keys, lengths, values, deadlines=None):
    parts = [struct.pack("<QB", len(keys), deadlines is not None), keys, struct.pack(f"<{len(lengths)}Q", *lengths)]
    if deadlines is not None:
        parts.append(struct.pack(f"<{len(deadlines)}Q", *deadlines))
    return b"".join([*parts, values])


@pytest.mark.parametrize(
    ("count", "plain"),
    [
        (2, columns(b'["b","a"]', [1, 1], b"xy")),
        (2, columns(b'["a","a"]', [1, 1], b"xy")),
        (1, columns(b'[""]', [1], b"x")),
        (1, columns(b"[1]", [1], b"x")),
        (2, columns(b"[1,2]", [1, 1], b"xy")),
        (1, columns(b'{"a":1}', [1], b"x")),
        (1, columns(b'["a"', [1], b"x")),
        (1, columns(b'["a","b"]', [1], b"x")),
        (1, columns(b'["a"]', [2], b"x")),
        (1, columns(b'["a"]', [0], b"x")),
        (1, columns(b'["a"]', [1 << 63], b"x")),
        (2, columns(b'["a","b"]', [1], b"x")),
        (0, columns(b"[]", [], b"")),
        (1, columns(b'["a"]', [1], b"x", [1 << 62])),
        (1, b""),
        (1 << 31, columns(b'["a"]', [1], b"x")),
    ],
)
async def test_a_frame_that_holds_nonsense_under_right_checksums_restores_nothing(tmp_path, count, plain):
    path = tmp_path / "file"
    writer = CheckpointWriter(str(path))
    writer.begin(0, "memory", 1)
    writer.write(struct.pack("<4sIQQ", b"RSc\x1a", count, len(plain), len(plain)), plain)
    writer.entries = count
    writer.finish()
    with pytest.raises(CorruptionError):
        await verify_checkpoint(path)
    store = await filled(memory(), {"kept": b"1"})
    with pytest.raises(CorruptionError):
        await store.restore(path, replace=True)
    assert await contents(store) == {"kept": (b"1", None)}


@pytest.mark.parametrize("stored", [b"", b"no zstd at all", b"\x28\xb5\x2f\xfd\x00\x00"])
async def test_compressed_bytes_that_are_none_are_damage(tmp_path, stored):
    path = tmp_path / "file"
    writer = CheckpointWriter(str(path))
    writer.begin(0, "memory", 1)
    writer.write(struct.pack("<4sIQQ", b"RSc\x1a", 1, 100, len(stored)), stored)
    writer.entries = 1
    writer.finish()
    with pytest.raises(CorruptionError):
        await verify_checkpoint(path)


def test_a_writer_that_is_not_open_says_so_and_discards_nothing(tmp_path):
    writer = CheckpointWriter(str(tmp_path / "file"))
    writer.discard()
    with pytest.raises(StorageError):
        writer.write(*Chunk(Batch(["a"], [b"1"], [1], [0])).pack(compress=True))
    with pytest.raises(StorageError):
        writer.finish()


async def test_keys_and_values_keep_their_ends_whatever_their_lengths(tmp_path):
    entries = {f"k{i}": b"x" * (i % 3) for i in range(10)} | {"same/a": b"12", "same/b": b"34"}
    path = await small_file(tmp_path, entries)
    other = memory()
    await other.restore(path)
    assert {key: value for key, (value, _) in (await contents(other)).items()} == entries


# --- restoring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MemoryStore, ByCommits])
async def test_a_store_that_is_not_empty_is_refused_unless_it_is_to_be_replaced(tmp_path, make):
    path = await small_file(tmp_path)
    store = await filled(memory(cls=make), {"mine": b"1", "b": b"mine", "also/mine": b""})
    before = await contents(store)
    with pytest.raises(ConflictError):
        await store.restore(path)
    assert await contents(store) == before
    assert await store.restore(path, replace=True) == 2
    assert await contents(store) == {"a": (b"1", None), "b": (b"22", None)}


@pytest.mark.parametrize("make", [MemoryStore, ByCommits])
async def test_what_has_expired_by_the_stores_clock_is_left_out_and_the_rest_keeps_its_time(tmp_path, make):
    clock = ManualClock()
    source = await filled(memory(clock), {"for ever": b"1"})
    await source.put("short", b"1", ttl=10)
    await source.put("long", b"1", ttl=timedelta(milliseconds=100_001))
    before = await contents(source)
    await source.checkpoint(tmp_path / "file")
    clock.advance(10)
    store = memory(clock, make)
    assert await store.restore(tmp_path / "file") == 2
    del before["short"]
    assert await contents(store) == before
    clock.advance(90.0009)
    assert await store.list_keys() == ["for ever", "long"]
    clock.advance(0.0001)
    assert await store.list_keys() == ["for ever"]


async def test_a_chunk_in_which_everything_has_expired_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("reactstate.kv.checkpoint._CHUNK_ENTRIES", 1)
    clock, told = ManualClock(), []
    source = memory(clock)
    await source.put("a", b"1", ttl=1)
    await source.put("b", b"2")
    await source.checkpoint(tmp_path / "file")
    clock.advance(2)
    store = memory(clock)
    assert await store.restore(tmp_path / "file", progress=told.append) == 1
    assert told == [1]
    assert await store.list_keys() == ["b"]


async def test_what_a_store_is_too_small_for_is_refused_before_anything_is_changed(tmp_path):
    for entries, limit, actual in (({"k" * 61: b""}, 60, 61), ({"k": b"1" * 401}, 400, 401), ({"ß" * 31: b""}, 60, 62)):
        path = await small_file(tmp_path, entries)
        store = await filled(memory(cls=ByCommits), {"kept": b"1"})
        with pytest.raises(LimitExceededError) as caught:
            await store.restore(path, replace=True)
        assert (caught.value.limit, caught.value.actual) == (limit, actual)
        assert await contents(store) == {"kept": (b"1", None)}


async def test_loading_by_commits_keeps_within_the_limits_and_above_the_revision(tmp_path):
    entries = {f"{'k' * (i % 40)}{i:03}": b"v" * (i * 7 % 400) for i in range(200)}
    source = await filled(memory(), entries)
    await source.checkpoint(tmp_path / "file")
    sizes = []

    class Watched(ByCommits):
        async def commit(self, steps, *, ranges=()):
            sizes.append(len(steps))
            return await super().commit(steps, ranges=ranges)

    store = memory(cls=Watched)
    assert await store.restore(tmp_path / "file") == 200
    assert {key: value for key, (value, _) in (await contents(store)).items()} == entries
    assert max(sizes) == 4
    floor = await newest(source)
    assert all([entry.revision > floor async for entry in store.scan()])
    sizes.clear()
    long_keys = {f"{'k' * 57}{i:03}": b"" for i in range(30)}
    await (await filled(memory(), long_keys)).checkpoint(tmp_path / "other")
    assert await store.restore(tmp_path / "other", replace=True) == 30
    assert await store.list_keys() == list(long_keys)
    assert await store.restore(tmp_path / "file", replace=True) == 200


async def test_entries_written_by_others_meanwhile_are_never_overwritten_by_commits(tmp_path):
    path = await small_file(tmp_path, {f"{i}": b"" for i in range(10)})

    class Raced(ByCommits):
        raced = False

        async def commit(self, steps, *, ranges=()):
            if not self.raced and any(step.expect is ABSENT for step in steps):
                Raced.raced = True
                await self.put("7", b"of another")
            return await super().commit(steps, ranges=ranges)

    store = memory(cls=Raced)
    with pytest.raises(ConflictError):
        await store.restore(path)
    found = await store.get("7")
    assert found is not None
    assert found.value == b"of another"


async def test_a_revision_that_cannot_be_reached_by_commits_is_refused_before_anything_is_changed(tmp_path):
    path = tmp_path / "file"
    writer = CheckpointWriter(str(path))
    writer.begin(0, "memory", 5_000_000)
    writer.finish()
    store = await filled(memory(cls=ByCommits), {"kept": b"1"})
    with pytest.raises(UnsupportedError) as caught:
        await store.restore(path, replace=True)
    assert caught.value.engine == "memory"
    assert await contents(store) == {"kept": (b"1", None)}
    assert await memory().restore(path) == 0


async def test_an_entry_that_expires_while_it_is_loaded_by_commits_is_left_out():
    clock = ManualClock()
    store = memory(clock, ByCommits)
    now = clock.time_ns() // 1_000_000

    async def batches():
        yield Batch(["a", "b"], [b"1", b"2"], [1, 1], [now + 1000, 0])
        clock.advance(5)
        yield Batch(["c"], [b"3"], [1], [now + 2000])

    assert await store._load(batches(), revision=3, replace=False) == 2
    assert await store.list_keys() == ["b"]


def test_the_layout_of_the_file_stays_what_it_is(tmp_path):
    """Files of this version are read by later ones: these bytes are a promise."""
    path = tmp_path / "file"
    writer = CheckpointWriter(str(path))
    writer.begin(1_700_000_000_000_000_000, "memory", 7)
    chunk = Chunk(Batch(["a", "ß"], [b"1", b"22"], [3, 7], [0, 1_800_000_000_000]))
    writer.note(chunk)
    writer.write(*chunk.pack(compress=False))
    writer.finish()
    assert orjson.loads(path.read_bytes()[14:79]) == {
        "created_ns": 1_700_000_000_000_000_000,
        "engine": "memory",
        "revision": 7,
    }
    assert path.read_bytes().hex() == FILE
