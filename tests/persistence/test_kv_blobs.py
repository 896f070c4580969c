from __future__ import annotations

import asyncio
import random

import pytest

from reactstate.clock import ManualClock
from reactstate.codec import AesGcmEncryption, Codec
from reactstate.errors import (
    CorruptionError,
    DecryptionError,
    InvalidKeyError,
    UnavailableError,
    UnknownOutcomeError,
    WrongContextError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Delete, Put, Step
from reactstate.kv.urls import open_store
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.testing.stores import FaultyStore

LARGE = random.Random(7).randbytes(700_000)


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds):
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


class Hooked(MemoryStore):
    """Calls what the test gives before and after each commit."""

    before = after = None

    async def commit(self, steps, *, ranges=()):
        if self.before is not None:
            await self.before(steps)
        done = await super().commit(steps, ranges=ranges)
        if self.after is not None:
            await self.after(steps)
        return done


async def opened(store, **options):
    persistence = KeyValuePersistence(store, "cart", **{"clock": HastyClock()} | options)
    await persistence.load()
    return persistence


async def pieces(store):
    return [key for key in await store.list_keys() if "/piece/" in key]


@pytest.fixture(params=["memory", "sqlite", "lmdb"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"{request.param}://{tmp_path / 'store'}"
    async with open_store(url) as made:
        yield made


async def test_blobs_of_every_size_come_back_and_are_listed_by_name(store):
    clock = HastyClock()
    a = await opened(store, clock=clock)
    sizes = {"a-b": 0, "a.b": 1, "a/b": 16_000, "a/b/C": 300_000, "b": 700_000, "a": 5}
    for name, size in sizes.items():
        await a.put_blob(name, LARGE[:size])
    for name, size in sizes.items():
        assert await a.get_blob(name) == LARGE[:size]
    infos = await a.list_blobs()
    assert [(info.name, info.size_bytes) for info in infos] == sorted(sizes.items())
    assert {info.modified_ns for info in infos} == {clock.time_ns()}
    assert [info.name for info in await a.list_blobs("a/")] == ["a/b", "a/b/C"]
    assert [info.name for info in await a.list_blobs("%")] == []
    assert await a.get_blob("c") is None


async def test_a_replaced_or_removed_blob_leaves_nothing_behind(store):
    a = await opened(store)
    for data in (LARGE, b"small", LARGE[::-1], LARGE):
        await a.put_blob("x", data)
        assert await a.get_blob("x") == data
        assert len(await pieces(store)) == (4 if len(data) > 5 else 0)
    assert await a.delete_blob("x")
    assert not await a.delete_blob("x")
    assert await store.list_keys() == []


@pytest.mark.parametrize("name", ["", "../x", "a//b", "x" * 121, "a:b", "ü", "a/", "con"])
async def test_what_cannot_name_a_blob_is_refused(name):
    a = await opened(MemoryStore())
    for call in (lambda: a.put_blob(name, b""), lambda: a.get_blob(name), lambda: a.delete_blob(name)):
        with pytest.raises(InvalidKeyError):
            await call()


async def test_blobs_can_be_read_before_load_and_written_after_it():
    store = MemoryStore()
    a = KeyValuePersistence(store, "cart")
    assert await a.get_blob("x") is None
    with pytest.raises(WrongContextError):
        await a.put_blob("x", b"")
    with pytest.raises(WrongContextError):
        await a.delete_blob("x")


async def test_of_writers_at_once_the_last_one_wins(store):
    a, b = await opened(store), await opened(store)
    datas = [LARGE[place : place + 20_000] for place in range(10)]
    await asyncio.gather(*[(a, b)[place % 2].put_blob("x", data) for place, data in enumerate(datas)])
    assert await a.get_blob("x") in datas
    assert len(await pieces(store)) == 2


async def test_writers_and_removers_at_once_leave_one_state():
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.put_blob("x", b"0")

    async def rival(steps):
        store.before = None
        await b.put_blob("x", b"rival")

    store.before = rival
    await a.put_blob("x", b"1")
    assert await b.get_blob("x") == b"1"
    store.before = rival
    assert await a.delete_blob("x")
    assert await store.list_keys() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("data", [b"small", LARGE])
async def test_lost_requests_and_replies_are_resolved(when, data):
    count, lost = 0, True
    while lost:
        store = Hooked()
        a = await opened(store)
        await a.put_blob("x", LARGE[::-1])
        left = count

        async def lose(steps):
            nonlocal left
            left -= 1
            # The removal of old chunks is not repeated: a sweep takes what stays.
            if left == -1 and "/piece/" in steps[0].key and isinstance(steps[0].op, Delete):
                left += 1
            elif left == -1:
                raise UnknownOutcomeError("no answer")

        setattr(store, when, lose)
        await a.put_blob("x", data)
        assert await a.get_blob("x") == data
        assert await a.delete_blob("x")
        setattr(store, when, None)
        assert await a.get_blob("x") is None
        lost = left < 0
        count += 1
    assert count > 1


async def test_a_removal_that_arrives_late_is_still_a_removal():
    store = Hooked()
    a = await opened(store)
    await a.put_blob("x", b"1")

    async def lose(steps):
        store.before = None
        get = store.get

        async def late(key):
            found = await get(key)
            store.get = get
            await MemoryStore.commit(store, steps)
            return found

        store.get = late
        raise UnknownOutcomeError("no answer")

    store.before = lose
    assert await a.delete_blob("x")
    assert await store.list_keys() == []


async def test_a_cancelled_write_is_carried_out():
    store = MemoryStore()
    a = await opened(store)
    task = asyncio.ensure_future(a.put_blob("x", LARGE))
    await asyncio.sleep(0)
    task.cancel()
    await a.aclose()
    assert await (await opened(store)).get_blob("x") == LARGE


async def test_old_chunks_that_cannot_be_removed_are_reported(caplog):
    store = Hooked()
    a = await opened(store)
    await a.put_blob("x", LARGE)

    async def fail(steps):
        if isinstance(steps[0].op, Delete):
            raise UnavailableError("gone")

    store.before = fail
    await a.put_blob("x", b"1")
    assert "could not be removed" in caplog.text
    assert await a.get_blob("x") == b"1"


async def test_chunks_that_were_swept_while_they_were_written_fail_the_write(story):
    clock = HastyClock()
    store = Hooked(clock=clock)
    a, b = await opened(store, clock=clock), await opened(store, clock=clock)
    await b.append(story.records(1, 5), story.schema)

    async def sweep(steps):
        if "/blob/" in steps[0].key:
            store.before = None
            clock.advance(3600)
            await b.save(story.snapshot(5), keep_since=3)

    store.before = sweep
    with pytest.raises(UnavailableError, match="try again"):
        await (await opened(store, deadline=1e-9, clock=clock)).put_blob("x", LARGE)
    assert await a.get_blob("x") is None
    assert await pieces(store) == []


async def test_a_sweep_leaves_chunks_that_are_named_in_the_meantime(story):
    clock = HastyClock()
    store = Hooked(clock=clock)
    a, b = await opened(store, clock=clock), await opened(store, clock=clock)
    await b.append(story.records(1, 5), story.schema)
    held, about = asyncio.Event(), asyncio.Event()

    async def hold(steps):
        if "/blob/" in steps[0].key:
            store.before = None
            about.set()
            await held.wait()

    store.before = hold
    slow = asyncio.ensure_future(a.put_blob("x", LARGE))
    await about.wait()
    clock.advance(3600)

    async def name(steps):
        if "/piece/" in steps[0].key:
            store.before = None
            held.set()
            await slow

    store.before = name
    await b.save(story.snapshot(5), keep_since=3)
    assert store.before is None
    assert await a.get_blob("x") == LARGE


async def test_a_reader_beside_a_writer_gets_old_or_new_bytes_whole():
    store = MemoryStore()
    a = await opened(store)
    await a.put_blob("x", LARGE)
    get_many = store.get_many

    async def replaced(keys):
        store.get_many = get_many
        await a.put_blob("x", LARGE[::-1])
        return await get_many(keys)

    store.get_many = replaced
    assert await a.get_blob("x") == LARGE[::-1]

    async def removed(keys):
        store.get_many = get_many
        await a.delete_blob("x")
        return await get_many(keys)

    store.get_many = removed
    assert await a.get_blob("x") is None


async def test_damage_to_a_blob_is_found_and_the_others_are_listed(caplog):
    store = MemoryStore()
    a = await opened(store)
    await a.put_blob("good", b"1")
    await a.put_blob("bad", b"2")
    await a.put_blob("large", LARGE)
    bad = await store.get("~state/cart/blob/bad")
    for place in range(len(bad.value)):
        flipped = bytearray(bad.value)
        flipped[place] ^= 1
        for value in (bytes(flipped), bad.value[:place]):
            await store.put(bad.key, value)
            with pytest.raises((CorruptionError, Exception)) as caught:
                await a.get_blob("bad")
            assert type(caught.value).__name__ in {"CorruptionError", "CodecError"}
    await store.put(bad.key, bad.value[:7])
    assert [info.name for info in await a.list_blobs()] == ["good", "large"]
    assert "damaged blob" in caplog.text
    moved = await store.get("~state/cart/blob/good")
    await store.put(bad.key, moved.value)
    with pytest.raises(CorruptionError):
        await a.get_blob("bad")
    await store.delete((await pieces(store))[1])
    with pytest.raises(CorruptionError):
        await a.get_blob("large")


async def test_a_blob_whose_size_does_not_fit_is_damaged():
    store = MemoryStore()
    a = await opened(store)
    await a.put_blob("x", b"1")
    await a.put_blob("y", b"22")
    layout = a._layout
    entry = await store.get(layout.blob_key("x"))
    header = layout.blob_header(entry)
    header.size = 2
    value = layout.blob_value(entry.key, header, layout.inline(entry))
    await store.commit([Step(entry.key, Put(value))])
    with pytest.raises(CorruptionError):
        await a.get_blob("x")


async def test_an_old_blob_that_is_damaged_can_be_replaced(caplog):
    store = MemoryStore()
    a = await opened(store)
    await store.put("~state/cart/blob/x", b"rubbish")
    await a.put_blob("x", b"1")
    assert await a.get_blob("x") == b"1"
    assert "could not be removed" in caplog.text


async def test_encrypted_blobs_need_their_key():
    store = MemoryStore()
    encryption = AesGcmEncryption({"k": b"k" * 32}, "k")
    a = await opened(store, codec=Codec("json", "zstd", encryption))
    await a.put_blob("x", LARGE)
    await a.put_blob("y", b"secret words")
    assert b"secret" not in b"".join([entry.value async for entry in store.scan()])
    assert await a.get_blob("x") == LARGE
    with pytest.raises(DecryptionError):
        await (await opened(store)).get_blob("y")


async def test_a_store_that_fails_now_and_then_keeps_every_blob():
    store = FaultyStore(MemoryStore(), seed=3)
    a = await opened(store)
    store.fail(probability=0.1)
    store.drop_reply(probability=0.1)
    for place in range(30):
        data = LARGE[: place * 1500]
        await a.put_blob(f"x{place % 3}", data)
        assert await a.get_blob(f"x{place % 3}") == data
