from __future__ import annotations

import asyncio

import pytest

from reactstate.clock import ManualClock
from reactstate.codec import AesGcmEncryption, Codec
from reactstate.errors import (
    ClosedError,
    CompactedError,
    ConflictError,
    InvalidKeyError,
    LimitExceededError,
    SchemaVersionError,
    SettingsError,
    UnsupportedError,
    WrongContextError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Limits
from reactstate.kv.urls import open_store
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.patch import apply_patch

LATER = {"cart": 2, "line": 1}


@pytest.fixture(params=["memory", "sqlite", "lmdb"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"{request.param}://{tmp_path / 'store'}"
    async with open_store(url) as opened:
        yield opened


async def opened(store, key="cart/ada", **options):
    persistence = KeyValuePersistence(store, key, **options)
    return persistence, await persistence.load()


def numbers(loaded):
    return [record.version for era in loaded.history for record in era.records]


def check_history(loaded, story):
    for era in loaded.history:
        document = era.document
        for record in reversed(era.records):
            assert document == story.document(record.version)
            document = apply_patch(document, record.inverse)


async def test_nothing_stored_loads_as_none_and_everything_comes_back(store, story):
    first, loaded = await opened(store)
    assert loaded is None
    await first.append(story.records(1, 5), story.schema)
    await first.append([], story.schema)
    await first.append(story.records(6, 7), story.schema)
    await first.flush()
    await first.aclose()
    second, loaded = await opened(store)
    head = loaded.head
    assert (head.version, head.document, head.schema) == (7, story.document(7), story.schema)
    assert (head.created_at_ns, head.updated_at_ns, head.change_id) == (10**18 + 1, 10**18 + 7, f"{7:032x}")
    assert numbers(loaded) == [1, 2, 3, 4, 5, 6, 7]
    assert loaded.history[-1].document == head.document
    check_history(loaded, story)
    await second.aclose()


async def test_every_member_of_a_record_survives_but_the_inverse_is_made_anew(store):
    first, _ = await opened(store)
    patch = [{"op": "replace", "path": "", "value": {"n": 2**80, "t": "ü"}}]
    whole = Record(1, "a" * 32, 5, "create", "ada", "make", {"why": [1, None]}, 0, patch)
    await first.append([whole], {"cart": 1})
    _, loaded = await opened(store)
    record = loaded.history[0].records[0]
    stored = [getattr(record, name) for name in Record.__slots__ if name != "inverse"]
    assert stored == [getattr(whole, name) for name in Record.__slots__ if name != "inverse"]
    assert record.inverse == [{"op": "replace", "path": "", "value": None}]
    assert loaded.head.tags == {"why": [1, None]}


async def test_no_more_history_is_returned_than_asked_for_and_the_document_is_whole(store, story):
    first, _ = await opened(store)
    await first.append(story.records(1, 90), story.schema)
    for history in (0, 1, 40, 89, 90, 1000):
        loaded = await first.load(history=history)
        assert loaded.head.document == story.document(90)
        assert numbers(loaded) == list(range(max(91 - history, 1), 91))
        check_history(loaded, story)


async def test_a_deleted_state_is_loaded_as_deleted_and_created_anew(store):
    first, _ = await opened(store)
    made = [{"op": "replace", "path": "", "value": {"n": 1}}]
    gone = [{"op": "replace", "path": "", "value": None}]
    await first.append([Record(1, "a" * 32, 10, "create", None, None, None, None, made)], {"cart": 1})
    await first.append([Record(2, "b" * 32, 20, "delete", None, None, None, None, gone)], {"cart": 1})
    loaded = await first.load()
    assert (loaded.head.document, loaded.head.created_at_ns, loaded.head.version) == (None, 10, 2)
    await first.save(loaded.head, keep_since=2)
    await first.append([Record(3, "c" * 32, 30, "create", None, None, None, None, made)], {"cart": 1})
    loaded = await first.load()
    assert (loaded.head.document, loaded.head.created_at_ns, numbers(loaded)) == ({"n": 1}, 30, [3])


async def test_changes_gives_records_with_inverses_and_says_what_is_gone(store, story):
    first, _ = await opened(store)
    assert [record async for record in first.changes()] == []
    await first.append(story.records(1, 100), story.schema)
    records = [record async for record in first.changes(70)]
    assert [record.version for record in records] == list(range(71, 101))
    assert apply_patch(story.document(71), records[0].inverse) == story.document(70)
    assert [record async for record in first.changes(100)] == []
    assert [record async for record in first.changes(500)] == []
    await first.save(story.snapshot(100), keep_since=50)
    with pytest.raises(CompactedError) as caught:
        await anext(first.changes(49))
    assert caught.value.resume == 50
    assert [record.version async for record in first.changes(50)] == list(range(51, 101))


async def test_changes_crosses_eras(store, story):
    first, _ = await opened(store)
    await first.append(story.records(1, 4), story.schema)
    await first.save(story.snapshot(4, LATER), keep_since=0)
    await first.append(story.records(5, 6), LATER)
    assert [record.version async for record in first.changes(2)] == [3, 4, 5, 6]
    assert [record.version async for record in first.changes(4)] == [5, 6]


async def test_records_that_do_not_follow_are_refused_and_nothing_is_kept(store, story):
    first, _ = await opened(store)
    with pytest.raises(WrongContextError):
        KeyValuePersistence(store, "other").append(story.records(1, 1), story.schema)
    with pytest.raises(ConflictError):
        await first.append(story.records(2, 3), story.schema)
    with pytest.raises(ValueError, match="no gaps"):
        first.append([story.record(1), story.record(3)], story.schema)
    await first.append(story.records(1, 2), story.schema)
    with pytest.raises(SchemaVersionError):
        first.append(story.records(3, 3), LATER)
    for wrong in (2, 5):
        with pytest.raises(ConflictError):
            await first.append([story.record(wrong)], story.schema)
    assert numbers(await first.load()) == [1, 2]


async def test_appends_that_are_not_awaited_one_by_one_keep_their_order(store, story):
    first, _ = await opened(store)
    await asyncio.gather(*[first.append([story.record(version)], story.schema) for version in range(1, 30)])
    assert numbers(await first.load()) == list(range(1, 30))


async def test_a_cancelled_caller_does_not_withdraw_what_it_appended(store, story):
    first, _ = await opened(store)
    task = asyncio.ensure_future(first.append(story.records(1, 2), story.schema))
    await asyncio.sleep(0)
    task.cancel()
    await first.flush()
    assert numbers(await first.load()) == [1, 2]
    failing = first.append(story.records(2, 2), story.schema)
    failing.cancel()
    await first.flush()
    assert numbers(await first.load()) == [1, 2]


async def test_a_loop_that_ends_tells_those_who_wait(store, story):
    first, _ = await opened(store)
    waiting = first.append(story.records(1, 2), story.schema)
    for task in first._writing:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_keys_cannot_reach_into_each_other(store, story):
    keys = ["a", "a/head", "a%2Fhead", "a/", "%", "a/record/00000000000000000001", "ä"]
    for place, key in enumerate(keys, 1):
        persistence, loaded = await opened(store, key)
        assert loaded is None
        await persistence.append(story.records(1, place), story.schema)
        await persistence.save(story.snapshot(place), keep_since=0)
        await persistence.put_blob("x", key.encode())
    for place, key in enumerate(keys, 1):
        persistence, loaded = await opened(store, key)
        assert loaded.head.version == place
        assert await persistence.get_blob("x") == key.encode()
        assert [info.name for info in await persistence.list_blobs()] == ["x"]


@pytest.mark.parametrize("key", ["", None, 7, "\ud800"])
async def test_what_cannot_be_a_key_is_refused(key):
    with pytest.raises(InvalidKeyError):
        KeyValuePersistence(MemoryStore(), key)


async def test_a_key_too_long_for_the_store_is_refused_at_once():
    with pytest.raises(LimitExceededError):
        KeyValuePersistence(MemoryStore(), "x" * 10_000)


async def test_what_is_no_store_or_cannot_do_what_is_needed_is_refused():
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.CAS}

    with pytest.raises(UnsupportedError) as caught:
        KeyValuePersistence(Plain(), "cart")
    assert (caught.value.layer, caught.value.capability) == ("persistence", "CAS")
    with pytest.raises(SettingsError):
        KeyValuePersistence("sqlite:app.db", "cart")
    for deadline in (0, -1, float("inf"), float("nan")):
        with pytest.raises(SettingsError):
            KeyValuePersistence(MemoryStore(), "cart", deadline=deadline)


@pytest.mark.parametrize("written", ["json", "msgpack", "cbor"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_every_format_reads_what_every_other_wrote(story, written, encrypted):
    store = MemoryStore()
    encryption = AesGcmEncryption({"k": b"k" * 32}, "k") if encrypted else None
    first, _ = await opened(store, codec=Codec(written, "zstd", encryption))
    await first.append(story.records(1, 80), story.schema)
    await first.save(story.snapshot(80), keep_since=40)
    await first.save(story.snapshot(80, LATER), keep_since=40)
    await first.put_blob("x", b"y" * 500)
    assert not encrypted or b"items" not in b"".join([entry.value async for entry in store.scan()])
    second, loaded = await opened(store, codec=Codec("json", "none", encryption))
    assert loaded.head.document == story.document(80)
    assert loaded.head.schema == LATER
    assert list(loaded.head.schema) == list(LATER)
    assert await second.get_blob("x") == b"y" * 500
    await second.append(story.records(81, 81), LATER)
    assert (await first.load()).head.version == 81


async def test_a_store_without_snapshot_reads_gives_the_same(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    first, loaded = await opened(Plain())
    assert loaded is None
    await first.append(story.records(1, 100), story.schema)
    await first.save(story.snapshot(100), keep_since=30)
    loaded = await first.load()
    assert numbers(loaded) == list(range(31, 101))
    check_history(loaded, story)


async def test_compaction_is_due_when_records_outweigh_base_and_history(story):
    store = MemoryStore()
    first = KeyValuePersistence(store, "cart")
    assert not first.compaction_due
    await first.load(history=10)
    await first.append(story.records(1, 74), story.schema)
    assert not first.compaction_due
    await first.append(story.records(75, 75), story.schema)
    assert first.compaction_due
    await first.save(story.snapshot(75), keep_since=65)
    assert not first.compaction_due
    large = Snapshot(75, {"text": "".join(map(chr, range(200, 20_000)))}, LATER, f"{75:032x}", 1, 2)
    await first.save(large, keep_since=75)
    version = 75
    while not first.compaction_due:
        version += 1
        patch = [{"op": "add", "path": "/n", "value": version}]
        await first.append([Record(version, f"{version:032x}", 3, "update", None, None, None, None, patch)], LATER)
    assert version - 75 > 300


async def test_a_group_beyond_one_commit_is_refused_before_anything_is_sent(story):
    class Small(MemoryStore):
        def __init__(self):
            super().__init__()
            self.limits = Limits(400, 1000, 10, 1600)

    store = Small()
    first, _ = await opened(store)
    for records in (story.records(1, 10), story.records(1, 9)):
        with pytest.raises(LimitExceededError):
            first.append(records, story.schema)
    patch = [{"op": "replace", "path": "", "value": "x" * 1000}]
    with pytest.raises(LimitExceededError):
        first.append([Record(1, "a" * 32, 1, "create", None, None, None, None, patch)], story.schema)
    tags = {"x": "y" * 900}
    with pytest.raises(LimitExceededError, match="version 1 takes"):
        first.append([Record(1, "a" * 32, 1, "create", None, None, tags, None, [])], story.schema)
    assert await store.list_keys() == []
    for start in range(1, 40, 3):
        await first.append(story.records(start, start + 2), story.schema)
    await first.save(story.snapshot(39), keep_since=20)
    await first.put_blob("x", bytes(range(256)) * 100)
    second, loaded = await opened(store)
    assert numbers(loaded) == list(range(21, 40))
    assert await second.get_blob("x") == bytes(range(256)) * 100


async def test_a_large_document_is_kept_in_chunks_that_a_small_store_takes(story):
    class Small(MemoryStore):
        def __init__(self):
            super().__init__()
            self.limits = Limits(400, 1000, 10, 4000)

    store = Small()
    first, _ = await opened(store, codec=Codec("json"))
    big = {"text": "".join(chr(300 + place % 500) for place in range(30_000))}
    await first.save(Snapshot(9, big, LATER, "a" * 32, 1, 2, {"t": 1}), keep_since=9)
    _, loaded = await opened(store, codec=Codec("json"))
    assert (loaded.head.document, loaded.head.version, loaded.head.tags) == (big, 9, {"t": 1})
    assert len([key for key in await store.list_keys() if "/base/" in key]) > 50


async def test_more_chunks_than_can_be_numbered_are_refused(monkeypatch):
    monkeypatch.setattr("reactstate.persistence.kv_chunks._MAX_CHUNKS", 3)
    monkeypatch.setattr("reactstate.persistence.kv_chunks.CHUNK_BYTES", 100)
    store = MemoryStore()
    first, _ = await opened(store, codec=Codec("json"))
    with pytest.raises(LimitExceededError):
        await first.save(Snapshot(1, "x" * 1000, LATER, "a" * 32, 1, 2), keep_since=1)
    assert await store.list_keys() == []


async def test_a_cursor_has_an_entry_of_its_own(store):
    first, _ = await opened(store)
    second = KeyValuePersistence(store, "cart/ada/cursor")
    places = [first.cursor_place("a"), first.cursor_place("a/b"), second.cursor_place("a")]
    assert {place[0] for place in places} == {store}
    assert len({place[1] for place in places}) == 3
    await store.put(places[0][1], b"1")
    await first.put_blob("cursors/a", b"2")
    assert (await store.get(places[0][1])).value == b"1"


async def test_a_closed_persistence_refuses_and_lets_go_only_of_a_store_that_it_owns(story):
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    borrowed, _ = await opened(store, clock=clock)
    owner, _ = await opened(store, owns_store=True)
    writing = borrowed.append(story.records(1, 1), story.schema)
    await borrowed.aclose()
    await borrowed.aclose()
    assert writing.done()
    for call in (borrowed.load, borrowed.flush, borrowed.list_blobs, lambda: borrowed.get_blob("x")):
        with pytest.raises(ClosedError):
            await call()
    with pytest.raises(ClosedError):
        borrowed.append(story.records(2, 2), story.schema)
    with pytest.raises(ClosedError):
        await borrowed.save(story.snapshot(1), keep_since=0)
    assert (await owner.load()).head.version == 1
    await owner.aclose()
    with pytest.raises(ClosedError):
        await store.get("x")


async def test_its_repr_names_store_and_key():
    assert repr(KeyValuePersistence(MemoryStore(), "cart")) == "KeyValuePersistence(MemoryStore('memory:'), 'cart')"
