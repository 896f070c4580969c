from __future__ import annotations

import pytest

from reactstate.codec import AesGcmEncryption, Codec
from reactstate.errors import CodecError, CorruptionError, DecodeError, DecryptionError, StorageError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Delete, Put, Step
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.persistence.kv_layout import Base, Head, Layout
from reactstate.persistence.protocol import Record

LATER = {"cart": 2}


class Plain(MemoryStore):
    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}


async def opened(store, **options):
    persistence = KeyValuePersistence(store, "cart", **options)
    await persistence.load()
    return persistence


async def stored(store, story, **options):
    a = await opened(store, **options)
    await a.append(story.records(1, 6), story.schema)
    await a.save(story.snapshot(6, LATER), keep_since=2)
    await a.append(story.records(7, 9), LATER)
    await a.save(story.snapshot(9, LATER), keep_since=2)
    return [entry async for entry in store.scan()]


@pytest.mark.parametrize("engine", [MemoryStore, Plain])
async def test_every_flipped_bit_and_every_cut_is_found_and_changes_nothing(story, engine):
    store = engine()
    entries = await stored(store, story)
    whole = await (await opened(store)).load()
    for entry in entries:
        if entry.key.endswith("-000000"):
            continue  # the number of chunks, which only marks the set
        for place in range(len(entry.value)):
            flipped = bytearray(entry.value)
            flipped[place] ^= 0x41
            for value in (bytes(flipped), entry.value[:place]):
                await store.put(entry.key, value)
                with pytest.raises((CorruptionError, CodecError)):
                    await KeyValuePersistence(store, "cart").load()
                assert (await store.get(entry.key)).value == value
        await store.put(entry.key, entry.value)
    loaded = await (await opened(store)).load()
    assert loaded.head.document == whole.head.document == story.document(9)


@pytest.mark.parametrize("engine", [MemoryStore, Plain])
async def test_every_missing_or_moved_entry_is_found(story, engine):
    store = engine()
    entries = await stored(store, story)
    kept = [entry for entry in entries if not entry.key.endswith(("-000000", "head/"))]
    for place, entry in enumerate(kept):
        await store.commit([Step(entry.key, Delete())])
        with pytest.raises(CorruptionError) as caught:
            await KeyValuePersistence(store, "cart").load()
        assert caught.value.path.startswith(entry.key[:-6])
        await store.put(entry.key, kept[place - 1].value)
        with pytest.raises(CorruptionError):
            await KeyValuePersistence(store, "cart").load()
        await store.put(entry.key, entry.value)
    await store.commit([Step(entry.key, Delete()) for entry in kept if "/record/" in entry.key])
    with pytest.raises(CorruptionError):
        await KeyValuePersistence(store, "cart").load()


async def test_a_missing_record_is_found_by_fetch(story):
    store = MemoryStore()
    a = await opened(store)
    b = await opened(store)
    await a.append(story.records(1, 6), story.schema)
    await store.commit([Step("~state/cart/record/00000000000000000004", Delete())])
    with pytest.raises(CorruptionError):
        await b.fetch(0)
    assert len((await b.fetch(5)).records) == 1


async def test_a_newer_layout_is_said_so_and_everything_is_kept(story):
    store = MemoryStore()
    entries = await stored(store, story)
    a = await opened(store)
    await a.put_blob("x", b"1")
    for key in ("head/", "record/00000000000000000008", "blob/x"):
        entry = await store.get(f"~state/cart/{key}")
        await store.put(entry.key, bytes((2,)) + entry.value[1:])
        b = KeyValuePersistence(store, "cart")
        with pytest.raises(CodecError, match="newer reactstate") as caught:
            await (b.get_blob("x") if "blob" in key else b.load())
        assert not isinstance(caught.value, DecodeError)
        await store.put(entry.key, entry.value)
    assert len([entry async for entry in store.scan()]) == len(entries) + 1
    await a.load()


async def test_entries_that_are_whole_but_say_nonsense_are_damaged(story):
    store = MemoryStore()
    await stored(store, story)
    layout = Layout("cart", None, store.limits)
    good = layout.decode_head(await store.get(layout.head))
    key = layout.record_key(8)
    nonsense = [
        (layout.head, b'{"version": 1}'),
        (layout.head, b"[]"),
        (layout.head, b"not json"),
        (key, b"[1, 2]"),
        (key, b'[7, "a", 1, "update", null, null, null, null, []]'),
        (key, b'[8, 1, 1, "update", null, null, null, null, []]'),
        (key, b'[8, "a", 1.5, "update", null, null, null, null, []]'),
        (key, b'[8, "a", 1, null, null, null, null, null, []]'),
        (key, b'[8, "a", 1, "update", null, null, null, null, [{"op": "remove", "path": "/nowhere"}]]'),
        (key, b'[8, "a", 1, "update", null, null, null, null, 5]'),
    ]
    for bases in ([], [Base("x", 1, 1, 1, {"cart": "1"})], [Base("x", None, 1, 1, {"cart": 1})]):
        head = Head(good.version, good.change_id, 1, 2, None, 3, bases)
        nonsense.append((layout.head, layout.encode_head(head)))
    for place, payload in nonsense:
        before = await store.get(place)
        value = payload if payload[:1] == b"\x01" else layout._seal(place, payload, Codec("json"))
        await store.commit([Step(place, Put(value))])
        with pytest.raises(CorruptionError):
            await KeyValuePersistence(store, "cart").load()
        await store.commit([Step(place, Put(before.value))])
    assert (await opened(store))._seen.version == 9


async def test_bytes_that_are_no_sealed_bytes_under_a_good_checksum_are_damaged(story):
    from zlib import crc32

    store = MemoryStore()
    await stored(store, story)
    layout = Layout("cart", None, store.limits)
    sealed = b"\x7fxyz"
    head = layout.head.encode()
    value = bytes((1, 1)) + crc32(sealed, crc32(head, 1)).to_bytes(4, "little") + sealed
    await store.put(layout.head, value)
    with pytest.raises(CorruptionError):
        await KeyValuePersistence(store, "cart").load()


async def test_encrypted_entries_need_their_key_and_entries_in_the_clear_are_refused(story):
    encryption = AesGcmEncryption({"k": b"k" * 32}, "k")
    codec = Codec("json", "zstd", encryption)
    store, clear = MemoryStore(), MemoryStore()
    await stored(store, story, codec=codec)
    await stored(clear, story)
    assert (await (await opened(store, codec=codec)).load()).head.document == story.document(9)
    with pytest.raises(DecryptionError):
        await opened(store)
    with pytest.raises(DecryptionError):
        await opened(clear, codec=codec)
    other = AesGcmEncryption({"k": b"x" * 32}, "k")
    with pytest.raises(DecryptionError):
        await opened(store, codec=Codec("json", "zstd", other))


async def test_a_record_that_cannot_be_encoded_changes_nothing(story):
    store = MemoryStore()
    a = await opened(store)
    patch = [{"op": "replace", "path": "", "value": float("nan")}]
    with pytest.raises(CodecError):
        a.append([Record(1, "a" * 32, 1, "create", None, None, None, None, patch)], story.schema)
    assert await store.list_keys() == []
    await a.append(story.records(1, 1), story.schema)
    assert issubclass(CorruptionError, StorageError)
