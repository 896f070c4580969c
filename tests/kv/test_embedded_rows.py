"""Time, scans, compression and loading of an embedded store."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    CompactedError,
    ConflictError,
    CorruptionError,
    LimitExceededError,
    NotACounterError,
    StorageError,
)
from reactstate.kv.changelog import encode_changes
from reactstate.kv.grouping import COMPRESSED
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Add, Batch, Delete, EventKind, Put, RangeExpect, Step

# --- time -----------------------------------------------------------------------------------------------------------


class WildClock(ManualClock):
    """A clock that can be put back."""

    back_ns = 0

    def time_ns(self):
        return super().time_ns() - self.back_ns


async def test_time_never_goes_back_between_reads_and_writes_and_stores(toys, table):
    clock = WildClock()
    async with toys.make(table, clock=clock) as store:
        await store.put("a", b"", ttl=1)
        clock.advance(1)
        assert await store.get("a") is None
        clock.back_ns = 10**10
        assert await store.get("a") is None
        assert [entry async for entry in store.scan()] == []
        assert await store.put_if_absent("a", b"new", ttl=1)
        async with toys.make(table, clock=clock) as other:
            assert (await other.get("a")).expires_at == (await store.get("a")).expires_at
            clock.back_ns = 0
            clock.advance(1)
            assert await other.get("a") is None
            await other.put("b", b"")
            clock.back_ns = 10**10
        assert await store.get("a") is None


async def test_a_view_keeps_what_had_not_expired_when_it_was_taken(store, clock):
    await store.commit([Step("a", Put(b"", 1)), Step("b", Put(b"", 2)), Step("c", Put(b""))])
    clock.advance(1)
    async with store.snapshot() as view:
        clock.advance(5)
        assert await store.cleanup_expired() == 2
        assert await view.get("a") is None
        assert await view.get("b") is not None
        assert [entry.key async for entry in view.scan()] == ["b", "c"]
        assert [batch.keys async for batch in view.batches()] == [["b", "c"]]
        assert [entry.key for entry in (await view.get_many(["a", "b"])).values()] == ["b"]


async def test_many_expired_entries_are_swept_in_pieces_with_a_revision_each(table, store, clock):
    await store.commit([Step(f"{place:05}", Put(b"", 1)) for place in range(25_000)])
    clock.advance(1)
    assert await store.cleanup_expired() == 25_000
    assert (await store.cursor()).endswith(":4")
    assert store.stats().expired_count == 25_000
    assert not table.state.rows


async def test_a_commit_with_ranges_sweeps_everything_that_is_due_first(store, clock):
    await store.commit([Step(f"{place:05}", Put(b"", 1)) for place in range(10_001)])
    read = await store.put("x", b"")
    clock.advance(1)
    with pytest.raises(ConflictError) as caught:
        await store.commit([Step("y", Put(b""))], ranges=[RangeExpect("00005", "00007", read.revision)])
    assert caught.value.keys == ("00005", "00006")
    assert (await store.commit([Step("y", Put(b""))], ranges=[RangeExpect("00005", "00007", 4)])).revision == 5


async def test_while_somebody_watches_what_expires_is_swept(store, clock):
    await store.put("a", b"", ttl=0.5)
    watch = store.watch()
    event = asyncio.ensure_future(anext(watch))
    clock.advance(1)
    found = await asyncio.wait_for(event, 5)
    assert (found.key, found.kind) == ("a", EventKind.EXPIRE)
    await watch.aclose()


async def test_a_sweep_that_fails_is_logged_and_made_again(toys, table, store, clock, caplog):
    await store.put("a", b"", ttl=0.5)
    watch = store.watch()
    table.failures = [StorageError("the disk is full")]
    event = asyncio.ensure_future(anext(watch))
    clock.advance(1)
    await toys.until(lambda: "the disk is full" in caplog.text)
    clock.advance(1)
    assert (await asyncio.wait_for(event, 5)).kind is EventKind.EXPIRE


async def test_default_ttl_is_for_put_and_not_for_commit(toys, table, clock):
    async with toys.make(table, options=StoreOptions(default_ttl=timedelta(seconds=1)), clock=clock) as store:
        await store.put("a", b"")
        await store.put("b", b"", ttl=9)
        await store.commit([Step("c", Put(b""))])
        clock.advance(1)
        assert list(await store.get_many(["c", "a", "b"])) == ["c", "b"]


# --- compression ----------------------------------------------------------------------------------------------------


async def test_values_that_become_smaller_are_stored_compressed_and_read_by_every_store(toys, table):
    text = b"state " * 500
    async with toys.make(table, options=StoreOptions(compression="zstd")) as store:
        first = await store.put("long", text)
        await store.commit([Step("short", Put(b"short")), Step("noise", Put(bytes(range(256)))), Step("n", Add(5))])
        again = await store.commit([Step("long", Put(text + b"!"), first.revision)])
        assert again.entries["long"].value == text + b"!"
    assert table.state.rows["long"][1] == COMPRESSED | 3
    assert len(table.state.rows["long"][0]) < 100
    assert table.state.rows["noise"][1] == 2
    async with toys.make(table) as store:
        entry = await store.get("long")
        assert (entry.value, entry.revision) == (text + b"!", 3)
        assert [found.value async for found in store.scan("l")] == [text + b"!"]
        async with store.snapshot() as view:
            (batch,) = [batch async for batch in view.batches()]
            assert batch.revisions == [3, 2, 2, 2]
            assert batch.values[0] == text + b"!"
        with pytest.raises(ConflictError) as caught:
            await store.commit([Step("long", Put(b""), 1)])
        assert caught.value.entries["long"] == entry
        with pytest.raises(NotACounterError):
            await store.increment("long")


async def test_a_damaged_compressed_value_is_told_and_fails_only_what_needs_it(toys, table, store):
    await store.put("good", b"")
    table.state.rows["bad"] = (b"junk", COMPRESSED | 1, 0)
    with pytest.raises(CorruptionError, match="'bad'"):
        await store.get("bad")
    first = await toys.hold(table, store)
    jobs = [asyncio.ensure_future(job) for job in (store.increment("bad"), store.put("other", b""))]
    await asyncio.sleep(0)
    table.gate.set()
    await first
    failed, good = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(failed, CorruptionError)
    assert good.revision == 3
    await store.put("bad", b"mended")
    assert (await store.get("bad")).value == b"mended"


async def test_a_value_never_decompresses_to_more_than_the_limit(toys, table):
    async with toys.make(table, options=StoreOptions(compression="zstd")) as store:
        await store.put("a", bytes(10_000))
        store.limits.max_value_bytes, kept = 5_000, store.limits.max_value_bytes
        with pytest.raises(CorruptionError):
            await store.get("a")
        store.limits.max_value_bytes = kept


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_load_replaces_everything_at_a_new_revision_and_old_cursors_are_too_old(toys, repeats, compression):
    table = toys.Table(repeats=repeats)
    async with toys.make(table, options=StoreOptions(compression=compression, durability="interval")) as store:
        await store.put("old", b"")
        cursor = await store.cursor()
        waiting = asyncio.ensure_future(anext(store.watch()))
        await asyncio.sleep(0)
        many = [f"{place:04}" for place in range(1000)]
        assert await store._load(toys.batches(many[:300], many[300:310], many[310:]), revision=50, replace=True) == 1000
        assert [entry.key async for entry in store.scan()] == many
        assert {entry.revision async for entry in store.scan()} == {51}
        with pytest.raises(CompactedError) as caught:
            await anext(store.watch(after=cursor))
        assert caught.value.resume == await store.cursor() == "toy:51"
        with pytest.raises(CompactedError):
            await waiting
        with pytest.raises(ConflictError):
            await store.commit([], ranges=[RangeExpect("x", "y", 50)])
        assert (await store.put("new", b"")).revision == 52


async def test_a_load_into_a_store_that_holds_something_is_refused(toys, store, clock):
    await store.commit([Step(f"{place:04}", Put(b"", 1)) for place in range(600)])
    clock.advance(1)
    await store.put("a", b"kept")
    with pytest.raises(ConflictError, match="replace=True") as caught:
        await store._load(toys.batches(["x"]), revision=0, replace=False)
    assert caught.value.keys == ("a",)
    assert (await store.get("a")).value == b"kept"
    await store.delete("a")
    assert await store._load(toys.batches(["x"], ["y"]), revision=0, replace=False) == 2
    assert [entry.key async for entry in store.scan()] == ["x", "y"]


async def test_a_load_whose_batches_fail_or_are_too_large_changes_nothing(toys, table, store):
    await store.put("a", b"kept")

    async def cut():
        async for batch in toys.batches(["x"], ["y"], ["z"]):
            yield batch
        raise CorruptionError("cut off")

    with pytest.raises(CorruptionError):
        await store._load(cut(), revision=0, replace=True)
    with pytest.raises(LimitExceededError):
        await store._load(toys.batches(["x" * 101]), revision=0, replace=True)

    async def large():
        yield Batch(["x"], [bytes(10_001)], [1], [0])

    with pytest.raises(LimitExceededError):
        await store._load(large(), revision=0, replace=True)
    table.failures = [StorageError("the disk is full")]
    with pytest.raises(StorageError, match="full"):
        await store._load(toys.batches(*[[f"{place:02}"] for place in range(20)]), revision=0, replace=True)
    assert [entry.key async for entry in store.scan()] == ["a"]
    assert (await store.put("b", b"")).revision == 2


async def test_a_load_takes_the_longest_keys_and_values(toys, store):
    async def large():
        yield Batch([], [], [], [])
        yield Batch(["x" * 100], [bytes(10_000)], [1], [0])

    assert await store._load(large(), revision=0, replace=False) == 1
    assert (await store.get("x" * 100)).value == bytes(10_000)


async def test_a_load_that_fails_early_stops_reading(table, store):
    await store.put("a", b"")
    read = []

    async def endless():
        while True:
            read.append(1)
            yield Batch(["x"], [b""], [1], [0])

    with pytest.raises(ConflictError):
        await store._load(endless(), revision=0, replace=False)
    assert len(read) < 10


async def test_a_cancelled_load_changes_nothing(table, store):
    await store.put("a", b"kept")

    async def stuck():
        yield Batch(["x"], [b""], [1], [0])
        await asyncio.Event().wait()

    task = asyncio.ensure_future(store._load(stuck(), revision=0, replace=True))
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await store.put("b", b"")).revision == 2
    assert [entry.key async for entry in store.scan()] == ["a", "b"]


# --- reading --------------------------------------------------------------------------------------------------------


async def test_a_scan_goes_on_behind_what_is_written_meanwhile(store):
    await store.commit([Step(f"{place:04}", Put(bytes(1000))) for place in range(0, 3000, 2)])
    found = []
    async for entry in store.scan():
        found.append(entry.key)
        if len(found) == 5:
            await store.commit([Step("0001", Put(b"")), Step("2999", Put(b"")), Step("2996", Delete())])
    kept = [f"{place:04}" for place in range(0, 2996, 2)]
    assert found == [*kept, "2998", "2999"]
    back = [entry.key async for entry in store.scan(reverse=True, start="1", end="2")]
    assert back == sorted((key for key in kept if key.startswith("1")), reverse=True)
    assert [entry.key async for entry in store.scan("00", limit=3)] == ["0000", "0001", "0002"]
    assert [entry.key async for entry in store.scan(limit=0)] == []


async def test_a_scan_and_batches_pass_over_the_expired(store, clock):
    await store.commit([Step(f"{place:04}", Put(b"", None if place % 100 == 0 else 1)) for place in range(3000)])
    clock.advance(1)
    kept = [f"{place:04}" for place in range(0, 3000, 100)]
    assert [entry.key async for entry in store.scan()] == kept
    assert [entry.key async for entry in store.scan(limit=2)] == kept[:2]
    async with store.snapshot() as view:
        assert [batch.keys async for batch in view.batches(4)] == [kept[at : at + 4] for at in range(0, 30, 4)]
        with pytest.raises(ValueError, match="limit"):
            view.scan(limit=-1)
        assert [entry.key async for entry in view.scan("01", limit=1, reverse=True)] == ["0100"]


async def test_get_many_keeps_the_order_and_lets_others_run(store):
    await store.commit([Step(f"{place:04}", Put(b"")) for place in range(600)])
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    found = await store.get_many([f"{place:04}" for place in reversed(range(700))])
    assert list(found) == [f"{place:04}" for place in reversed(range(600))]
    assert turns


async def test_statistics_count_what_happened(store, clock):
    await store.put("a", b"", ttl=1)
    await store.commit([Step("b", Put(b"")), Step("c", Add(1))])
    await store.delete("b")
    await store.get("a")
    await store.get("x")
    await store.get_many(["c", "b"])
    assert not await store.put_if_absent("a", b"")
    clock.advance(1)
    await store.cleanup_expired()
    stats = store.stats()
    assert (stats.get_count, stats.hit_count, stats.miss_count) == (5, 3, 2)  # delete looks before
    assert (stats.put_count, stats.delete_count, stats.expired_count, stats.conflict_count) == (3, 1, 1, 1)
    assert stats.bytes == await store.size_on_disk() == 1234
    assert await store.memory_usage() == 0
    assert stats is not store.stats()


async def test_the_log_is_trimmed_now_and_then_and_not_at_each_commit(toys, table, clock):
    async with toys.make(table, options=StoreOptions(change_log_retention=timedelta(seconds=80)), clock=clock) as store:
        floors = []
        for place in range(30):
            await store.put(str(place), b"")
            floors.append(table.state.floor)
            clock.advance(5)
        assert floors == sorted(floors)
        assert len(set(floors)) < 15
        assert 30 - floors[-1] in range(16, 20)


async def test_a_log_row_of_no_events_is_legal(table, store):
    await store.put("a", b"")
    table.state.log.append((1, 0, encode_changes(1, (), b"", ())))
    assert (await anext(store.watch(after="toy:0"))).key == "a"
