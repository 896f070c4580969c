"""MemoryStore: keys, values, reads, statistics, and its end."""

import asyncio
import gc
from datetime import timedelta
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    InvalidKeyError,
    LimitExceededError,
    SettingsError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import (
    Capability,
    Entry,
    Put,
    Step,
)

HOUR = timedelta(hours=1)


class Name(StrEnum):
    A = "a"


class ReversibleClock(ManualClock):
    """A clock that can also go back."""

    __slots__ = ("back",)

    def __init__(self):
        super().__init__()
        self.back = 0

    def time_ns(self):
        return super().time_ns() - self.back


@pytest.fixture
def clock():
    return ReversibleClock()


@pytest.fixture
async def store(clock):
    async with MemoryStore(clock=clock) as store:
        yield store


async def listed(iterator):
    return [item async for item in iterator]


async def keys_of(iterator):
    return [item.key async for item in iterator]


async def values_of(source):
    return {entry.key: entry.value async for entry in source.scan()}


async def put_many(store, count, prefix="k"):
    for number in range(count):
        await store.put(f"{prefix}{number:05d}", b"%d" % number)


async def test_it_declares_what_it_promises():
    async with MemoryStore() as store:
        assert (store.engine, store.url, repr(store)) == ("memory", "memory:", "MemoryStore('memory:')")
        assert store.capabilities == set(Capability) - {Capability.DURABLE, Capability.SHARED}
        assert store.limits.max_key_bytes == 8192
        assert await store.size_on_disk() == 0
    async with MemoryStore(name="cache") as named:
        assert named.url == "memory:cache"


def test_a_store_that_cannot_be_written_to_is_refused():
    with pytest.raises(SettingsError, match="read_only"):
        MemoryStore(options=StoreOptions(read_only=True))


async def test_options_without_meaning_in_memory_are_taken():
    options = StoreOptions(compression="zstd", durability="never", cache_capacity=1)
    async with MemoryStore(options=options) as store:
        await store.put("a", b"x" * 10_000)
        assert store.stats().bytes == 10_001


@pytest.mark.parametrize("key", ["", 1, None, b"a", [], "\ud800", "a\udfff"])
async def test_what_cannot_be_a_key_is_refused_everywhere(store, key):
    await store.put("a", b"")
    async with store.snapshot() as view:
        calls = [
            lambda: store.get(key),
            lambda: store.get_many([key]),
            lambda: store.put(key, b""),
            lambda: store.put_if_absent(key, b""),
            lambda: store.delete(key),
            lambda: store.increment(key),
            lambda: store.commit([Step(key, Put(b""))]),
            lambda: store.commit([Step("a", Put(b"no")), Step(key)]),
            lambda: view.get(key),
            lambda: view.get_many([key]),
        ]
        for call in calls:
            with pytest.raises(InvalidKeyError):
                await call()
    assert (await store.get("a")).value == b""


async def test_keys_and_values_are_taken_up_to_their_limits(store):
    longest = "é" * 4096
    assert await store.put(longest, b"") == await store.get(longest)
    for key in ("é" * 4097, "k" * 8193):
        for call in (store.put, store.put_if_absent):
            with pytest.raises(LimitExceededError) as caught:
                await call(key, b"")
            assert caught.value.limit == 8192
        with pytest.raises(LimitExceededError):
            await store.get(key)
        with pytest.raises(LimitExceededError):
            await store.commit([Step(key)])
    assert await store.list_keys() == [longest]


async def test_a_value_over_the_limit_is_refused_by_every_write(store, monkeypatch):
    monkeypatch.setattr("reactstate.kv.memory._MAX_VALUE", 10)
    monkeypatch.setattr(MemoryStore, "limits", type(store.limits)(8192, 10, 3, 25))
    await store.put("a", b"old")
    for write in (store.put, store.put_if_absent):
        for key in ("a", "b"):
            with pytest.raises(LimitExceededError):
                await write(key, b"x" * 11)
    with pytest.raises(LimitExceededError):
        await store.commit([Step("a", Put(b"x" * 11))])
    with pytest.raises(LimitExceededError):
        await store.commit([Step(key, Put(b"x" * 10)) for key in "abc"])
    with pytest.raises(LimitExceededError):
        await store.commit([Step(key) for key in "abcd"])
    assert await values_of(store) == {"a": b"old"}


async def test_a_value_is_bytes(store):
    await store.put("a", b"")
    for value in ("text", bytearray(b"x"), None, 1):
        for call in (store.put, store.put_if_absent):
            for key in ("a", "new"):
                with pytest.raises(TypeError):
                    await call(key, value)
        with pytest.raises(TypeError):
            await store.commit([Step("a", Put(value))])
    assert await values_of(store) == {"a": b""}


async def test_a_key_is_kept_as_plain_text(store):
    await store.put(Name.A, b"1")
    await store.put(Name.A, b"2")
    await store.commit([Step(Name.A, Put(b"3"))])
    assert (await store.get(Name.A)).value == b"3"
    assert [type(key) for key in await store.list_keys()] == [str]
    with pytest.raises(InvalidKeyError):
        await store.commit([Step("a"), Step(Name.A)])
    assert await store.delete(Name.A)


async def test_get_returns_what_was_written(store):
    first = await store.put("a", b"1")
    second = await store.put("b", b"2")
    assert (first.revision, second.revision) == (1, 2)
    assert await store.get("a") == Entry("a", b"1", 1) == first
    assert await store.get("c") is None
    assert await store.get_many(["b", "c", "a"]) == {"b": second, "a": first}
    assert list(await store.get_many(["b", "c", "a"])) == ["b", "a"]


@given(
    keys=st.sets(st.text(st.sampled_from("ab%_/é\U0010ffff"), min_size=1, max_size=4), max_size=20),
    prefix=st.text(st.sampled_from("ab%_é\U0010ffff"), max_size=2),
    start=st.none() | st.text(st.sampled_from("ab%é"), max_size=2),
    end=st.none() | st.text(st.sampled_from("ab%é"), max_size=2),
    limit=st.none() | st.integers(0, 5),
    reverse=st.booleans(),
)
async def test_scan_returns_the_range_in_order(keys, prefix, start, end, limit, reverse):
    async with MemoryStore() as store:
        for key in keys:
            await store.put(key, key.encode())
        expected = sorted(
            (
                key
                for key in keys
                if key.startswith(prefix) and (start is None or key >= start) and (end is None or key < end)
            ),
            reverse=reverse,
        )[:limit]
        bounds = {"start": start, "end": end, "limit": limit, "reverse": reverse}
        assert await keys_of(store.scan(prefix, **bounds)) == expected
        async with store.snapshot() as view:
            assert await keys_of(view.scan(prefix, **bounds)) == expected
        assert await store.list_keys(prefix, limit=limit) == sorted(k for k in keys if k.startswith(prefix))[:limit]


async def test_bounds_that_cannot_be_keys_are_refused(store):
    for bounds in ({"prefix": "\ud800"}, {"start": 1}, {"end": b""}):
        with pytest.raises(InvalidKeyError):
            await listed(store.scan(**bounds))
    with pytest.raises(ValueError, match="limit"):
        await listed(store.scan(limit=-1))
    with pytest.raises(ValueError, match="limit"):
        await store.list_keys(limit=-1)
    with pytest.raises(InvalidKeyError):
        store.watch("\ud800")


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_scan_sees_once_each_entry_that_was_there_all_the_time(store, reverse):
    await put_many(store, 2500)
    seen = []
    async for entry in store.scan("k", reverse=reverse):
        seen.append(entry.key)
        if entry.key.endswith("x"):
            continue
        number = int(entry.key[1:])
        await store.put(f"k{number:05d}x", b"new")
        if number % 5 == 0:
            await store.delete(f"k{number:05d}")
            await store.delete(f"k{number + (-1 if reverse else 1):05d}")
    stayed = {f"k{number:05d}" for number in range(2500) if number % 5 not in {0, 4 if reverse else 1}}
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
    assert seen == sorted(seen, reverse=reverse)


async def test_long_reads_let_other_tasks_go_on(store):
    await put_many(store, 5000)
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(count())
    for read in (listed(store.scan()), store.list_keys()):
        turns = 0
        await read
        assert turns >= 4
    async with store.snapshot() as view:
        for read in (listed(view.scan()), listed(view.batches(1000))):
            turns = 0
            await read
            assert turns >= 4
    task.cancel()


async def test_stats_count_what_was_done(store, clock):
    await store.put("abc", b"12345")
    await store.put("abc", b"123")
    await store.increment("n", 41)
    await store.get_many(["abc", "x"])
    await store.get("abc")
    await store.get("y")
    await store.delete("n")
    await store.put_if_absent("abc", b"")
    await store.compare_and_swap("abc", 77, b"")
    await store.put("é", b"", ttl=1)
    clock.advance(1)
    assert await store.get("é") is None
    assert await store.cleanup_expired() == 1
    stats = store.stats()
    assert (stats.get_count, stats.hit_count, stats.miss_count) == (5, 2, 3)
    assert (stats.put_count, stats.delete_count, stats.expired_count, stats.conflict_count) == (4, 1, 1, 2)
    assert stats.bytes == len("abc" + "123")
    assert stats.hit_rate == 0.4


async def test_entries_are_nothing_that_the_garbage_collector_walks(store):
    for number in range(3000):
        await store.put(f"k{number}", b"value", ttl=1 + number % 7 if number % 2 else None)
    table = store._table
    assert not any(map(gc.is_tracked, (table.values, table.revisions, table.of)))


async def test_memory_usage_grows_with_what_is_held(store):
    empty = await store.memory_usage()
    await put_many(store, 500)
    full = await store.memory_usage()
    assert full > empty + 500 * 100
    async with store.snapshot():
        await put_many(store, 500)
        assert await store.memory_usage() > full + 500 * 50


async def test_after_aclose_everything_raises_and_nothing_is_left_running(clock):
    store = MemoryStore(clock=clock)
    await put_many(store, 3)
    watch, waiting = store.watch(), store.watch()
    task = asyncio.ensure_future(anext(waiting))
    cleaner = store.start_cleanup_task(HOUR)
    await asyncio.sleep(0)
    scan = store.scan()
    await anext(scan)
    async with store.snapshot() as view:
        view_scan, batches = view.scan(), view.batches(1)
        await anext(view_scan)
        await anext(batches)
        sweeper = store._sweeper
        await store.aclose()
        await store.aclose()
        for use in (
            lambda: anext(scan),
            lambda: anext(view_scan),
            lambda: anext(batches),
            lambda: view.get("k00000"),
            lambda: store.get("k00000"),
            lambda: store.get_many(["k00000"]),
            lambda: listed(store.scan()),
            store.list_keys,
            lambda: store.put("k00000", b""),
            lambda: store.put("a", b""),
            lambda: store.put_if_absent("k00000", b""),
            lambda: store.compare_and_swap("k00000", 1, b""),
            lambda: store.increment("n"),
            lambda: store.delete("k00000"),
            lambda: store.commit([Step("a", Put(b""))]),
            lambda: store.commit([]),
            store.cursor,
            store.cleanup_expired,
            store.flush,
            store.memory_usage,
            lambda: store._load(store.scan(), revision=1, replace=True),
        ):
            with pytest.raises(ClosedError):
                await use()
    for use in (store.watch, store.snapshot, lambda: store.start_cleanup_task(HOUR)):
        with pytest.raises(ClosedError):
            use()
    for ended in (lambda: task, lambda: anext(watch), lambda: anext(waiting)):
        with pytest.raises(StopAsyncIteration):
            await ended()
    assert cleaner.cancelled()
    assert sweeper.cancelled()
    assert store.stats().put_count == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_snapshot_that_was_not_entered_is_refused_after_aclose(store):
    block = store.snapshot()
    await store.aclose()
    with pytest.raises(ClosedError):
        await block.__aenter__()
